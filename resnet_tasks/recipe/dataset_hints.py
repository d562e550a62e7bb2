"""Messages for datasets, run folders and other files that are given in place of a recipe."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.data_root import get_data_root
from resnet_tasks.recipe.yaml_text import parse_yaml

BOXES = "medical/bccd_faster_rcnn_resnet18"
MASKS = "medical/dsb2018_mask_rcnn_resnet18"
PIXELS = "driving/camvid_unet_resnet18"
IMAGES = "pretrain/image_folder_classifier_resnet18"

START_LENGTH = 1 << 16
"""Number of bytes of a JSON file that are searched for the keys of COCO."""
_COCO_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_DATASET_KEYS = re.compile(r"^(names|format)\s*:", re.MULTILINE)
_YAML = (".yaml", ".yml")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Layout:
    """Layout of a dataset folder that a format of `data convert` reads.

    Attributes:
        format: Name of the format.
        title: Name of the layout in a sentence.
        patterns: Shell patterns below the folder, each of which matches at least one path.
        recipe: Shipped recipe for such data.
        option: Option of the format that most of this data needs; empty if there is none.
    """

    format: str
    title: str
    patterns: tuple[str, ...]
    recipe: str
    option: str = ""


LAYOUTS = (
    Layout("cityscapes", "a Cityscapes dataset", ("leftImg8bit", "gtFine"), BOXES),
    Layout("kitti", "a KITTI dataset", ("training/label_2",), BOXES, "val_fraction=0.2"),
    Layout("nifti", "a dataset of NIfTI volumes", ("imagesTr", "labelsTr"), PIXELS),
    Layout("nuimages", "a nuImages dataset", ("v1.0-*/object_ann.json",), MASKS),
    Layout(
        "voc",
        "a Pascal VOC dataset",
        ("JPEGImages", "Annotations/*.xml", "ImageSets/Main/*.txt"),
        BOXES,
    ),
    Layout("coco", "a COCO dataset", ("annotations/*.json",), BOXES),
    Layout("coco", "a COCO dataset", ("*/_annotations.coco.json",), BOXES),
    Layout("instance-masks", "a dataset of instance masks", ("*/*/masks", "*/*/images"), MASKS),
    Layout(
        "label-maps",
        "a dataset of label maps",
        ("train", "trainannot"),
        PIXELS,
        "classes=[NAME, NAME]",
    ),
    Layout("image-folders", "a dataset of image folders", ("train/*/*.jpg",), IMAGES),
    Layout("image-folders", "a dataset of image folders", ("train/*/*.png",), IMAGES),
)
"""Known layouts; the first one that a folder has counts."""


def describe_folder(folder: Path) -> str:
    """Describe a folder that is given in place of a recipe, and the commands to run instead."""
    if (folder / "recipe.yaml").is_file():
        return (
            f"{folder} is a run folder, not a recipe; resume the run with `resnet-tasks finetune "
            f"--resume {_quote(folder)}`, or train its recipe again with `resnet-tasks finetune "
            f"{_quote(folder / 'recipe.yaml')}`"
        )
    if (folder / "train.json").is_file():
        return _describe_coco_folder(folder)
    yaml_files = sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))
    for file in sorted(yaml_files, key=lambda file: file.stem != "data"):
        if message := _describe_yaml(file):
            return message
    for layout in LAYOUTS:
        if all(next(folder.glob(pattern), None) for pattern in layout.patterns):
            title = f"{folder} is {layout.title}, not a recipe; to train on it"
            return _format_conversion(title, folder, layout.format, layout.recipe, layout.option)
    if next(folder.iterdir(), None) is None:
        return f"{folder} is an empty folder, not a recipe; recipes: resnet-tasks recipes list"
    return _format_conversion(f"{folder} is a folder, not a recipe; if it is a dataset", folder)


def describe_file(file: Path) -> str | None:
    """Describe a file that is certainly no recipe, and the commands to run instead.

    A JSON file is not parsed, because a COCO file may be large.
    """
    suffix = file.suffix.lower()
    if suffix in _YAML:
        return _describe_yaml(file)
    if suffix == ".json" and _is_coco(file):
        return _describe_coco_file(file)
    if file.name.lower().endswith(_ARCHIVES):
        return _format_conversion(f"{file} is an archive, not a recipe; if it is a dataset", file)
    if suffix in _WEIGHTS:
        return (
            f"{file} holds weights, not a recipe; a recipe loads them: resnet-tasks finetune "
            f"RECIPE {_quote(f'backbone.weights={file}')}"
        )
    if suffix in _IMAGES:
        return (
            f"{file} is an image, not a recipe; predict it with a trained run: resnet-tasks "
            f"predict RUN {_quote(file)}"
        )
    return None


def _describe_yaml(file: Path) -> str | None:
    """Describe a YAML file of a dataset, and the commands to run instead; None for other files."""
    document = _read_dataset_yaml(file)
    if not isinstance(document, dict) or "heads" in document:
        return None
    if {"title", "format"} <= document.keys():
        return _format_commands(
            f"{file} describes a dataset for `data prepare`, not a recipe; to train on it",
            f"data prepare {_quote(file)} --source DIR",
            f"finetune RECIPE {_quote(f'data.root={file.stem}')}",
        )
    if "names" not in document or not {"train", "val", "path"} & document.keys():
        return None
    folder = Path(os.path.abspath(file)).parent  # noqa: PTH100 - links are kept
    name = _choose_name(folder)
    option = "" if file.stem == "data" else " " + _quote(f"data_yaml={file.name}")
    out = get_data_root() / name
    commands = [f"data convert yolo {_quote(file.parent)} {_quote(out)}{option}"]
    if not document.get("val"):
        name = f"{name}-splits"
        commands.append(
            f"data split {_quote(out / 'train.json')} --out {_quote(get_data_root() / name)}"
        )
    return _format_commands(
        f"{file} describes a YOLO dataset, not a recipe; to train on it",
        *commands,
        f"finetune {BOXES} {_quote(f'data.root={name}')}",
    )


def _describe_coco_folder(folder: Path) -> str:
    """Describe a folder with `train.json`, which a recipe can use as it is or after a split."""
    if (folder / "val.json").is_file():
        return _format_commands(
            f"{folder} is a COCO dataset, not a recipe; to train on it",
            f"finetune {BOXES} {_quote(f'data.root={_make_root(folder)}')}",
        )
    return _describe_split(
        f"{folder} is a COCO dataset without val.json, not a recipe; to train on it", folder
    )


def _describe_coco_file(file: Path) -> str:
    folder = file.parent
    if (folder / "train.json").is_file() and (folder / "val.json").is_file():
        return _describe_coco_folder(folder).replace(str(folder), str(file), 1)
    if folder.name == "annotations" and len([*folder.glob("*.json")]) > 1:
        return describe_folder(folder.parent)
    return _describe_split(f"{file} is a COCO dataset, not a recipe; to train on it", file)


def _describe_split(start: str, source: Path) -> str:
    file = source / "train.json" if source.is_dir() else source
    name = _choose_name(source, "-splits")
    return _format_commands(
        start,
        f"data split {_quote(file)} --out {_quote(get_data_root() / name)}",
        f"finetune {BOXES} {_quote(f'data.root={name}')}",
    )


def _format_conversion(
    title: str, source: Path, format_name: str = "FORMAT", recipe: str = "RECIPE", option: str = ""
) -> str:
    """Return the commands that convert a dataset and train a recipe on it."""
    name = _choose_name(source)
    words = [format_name, str(source), str(get_data_root() / name), *([option] if option else [])]
    return _format_commands(
        title,
        f"data convert {shlex.join(words)}",
        f"finetune {recipe} {_quote(f'data.root={name}')}",
    )


def _format_commands(title: str, *commands: str) -> str:
    """Return a message with the commands to run, one per line."""
    lines = [f"  resnet-tasks {command}" for command in commands]
    if "data convert FORMAT" in lines[0]:
        lines.append("Formats: resnet-tasks data convert")
    return "\n".join([f"{title}, run:", *lines, "Other recipes: resnet-tasks recipes list"])


def _choose_name(source: Path, ending: str = "") -> str:
    """Return a name for the converted dataset, below the data root, that is not in use."""
    stem = Path(os.path.abspath(source)).name  # noqa: PTH100 - links are kept
    if source.is_file():
        suffixes = (suffix for suffix in (".json", *_ARCHIVES) if stem.lower().endswith(suffix))
        stem = stem[: -len(next(suffixes, "")) or None]
    name = re.sub(r"[^\w.-]+", "_", stem).strip("_.") or "mine"
    return f"{name}{ending or '-coco'}" if (get_data_root() / name).exists() or ending else name


def _make_root(folder: Path) -> str:
    """Return the value of `data.root` for an existing folder."""
    absolute, root = (Path(os.path.abspath(path)) for path in (folder, get_data_root()))  # noqa: PTH100
    return absolute.relative_to(root).as_posix() if root in absolute.parents else str(absolute)


def _is_coco(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(START_LENGTH)
    return start.lstrip().startswith(b"{") and _COCO_KEYS.search(start) is not None


def _read_dataset_yaml(file: Path) -> Any:
    """Return the content of a YAML file; None if it cannot describe a dataset."""
    try:
        text = file.read_text(encoding="utf-8")
        # YOLO files number their classes, which a recipe does not allow.
        is_candidate = _DATASET_KEYS.search(text) is not None
        return parse_yaml(text, str(file), number_keys=True).value if is_candidate else None
    except (OSError, UnicodeDecodeError, RecipeError):
        return None


def _quote(text: str | Path) -> str:
    return shlex.quote(str(text))
