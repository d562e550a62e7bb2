"""Messages for datasets, run folders and other files that are given in place of a recipe."""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_tasks.errors import NotRecipeError, RecipeError
from resnet_tasks.recipe.data_root import get_data_root
from resnet_tasks.recipe.yaml_text import parse_yaml, read_yaml_text

RECIPE_BY_CONTENT = {
    "boxes": "medical/bccd_faster_rcnn_resnet18",
    "masks": "medical/dsb2018_mask_rcnn_resnet18",
    "foreground": "medical/kvasir_seg_unet_resnet34",
    "pixels": "driving/camvid_unet_resnet18",
    "image labels": "pretrain/image_folder_classifier_resnet18",
    "images": "",
}
"""Annotations of a dataset -> shipped recipe that trains on them; empty if there is none."""

START_LENGTH = 1 << 16
"""Number of bytes of a JSON file that are searched for the keys of COCO."""
_COCO_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_DATASET_KEYS = re.compile(r"^(names|format)\s*:", re.MULTILINE)
_YAML = (".yaml", ".yml")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
_ANNOTATIONS = (".csv", ".data", ".json", ".txt", ".xml")
"""Suffixes of files that may belong to a dataset in a format of `data convert`."""
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def describe_folder(folder: Path) -> NotRecipeError:
    """Describe a folder that is given in place of a recipe, and the commands to run instead."""
    if message := _describe_known_folder(folder):
        return NotRecipeError(message)
    message = format_conversion(f"{folder} is a folder, not a recipe; if it is a dataset,", folder)
    return NotRecipeError(message, folder)


def _describe_known_folder(folder: Path) -> str | None:
    """Describe a folder that no format of `data convert` reads; None for other folders."""
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
    if next(folder.iterdir(), None) is None:
        return f"{folder} is an empty folder, not a recipe; recipes: resnet-tasks recipes list"
    return None


def describe_file(file: Path) -> NotRecipeError | None:
    """Describe a file that is certainly no recipe, and the commands to run instead.

    A JSON file is not parsed, because a COCO file may be large.
    """
    if file.suffix.lower() == ".json" and is_coco_file(file):
        message, has_images = _describe_coco_file(file)
        return NotRecipeError(message, None if has_images else file)
    other = _describe_other_file(file)
    return None if other is None else NotRecipeError(other)


def may_be_annotations(file: Path) -> bool:
    """Return whether a file may belong to a dataset, by its suffix."""
    return file.suffix.lower() in _ANNOTATIONS


def _describe_other_file(file: Path) -> str | None:
    suffix = file.suffix.lower()
    if suffix in _YAML:
        return _describe_yaml(file)
    if file.name.lower().endswith(_ARCHIVES):
        return format_conversion(f"{file} is an archive, not a recipe; if it is a dataset,", file)
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
            f"{file} describes a dataset for `data prepare`, not a recipe; to train on it,",
            f"data prepare {_quote(file)} --source DIR",
            f"finetune RECIPE {_quote(f'data.root={file.stem}')}",
        )
    if "names" not in document or not {"train", "val", "path"} & document.keys():
        return None
    return format_conversion(
        f"{file} describes a YOLO dataset, not a recipe; to train on it,",
        file.parent,
        "yolo",
        RECIPE_BY_CONTENT["boxes"],
        () if file.stem == "data" else (f"data_yaml={file.name}",),
        needs_split=not (document.get("val") or document.get("valid")),
    )


def _describe_coco_folder(folder: Path) -> str:
    """Describe a folder with `train.json`, which a recipe can use as it is or after a split."""
    if (folder / "val.json").is_file():
        return _format_commands(
            f"{folder} is a COCO dataset, not a recipe; to train on it,",
            f"finetune {RECIPE_BY_CONTENT['boxes']} {_quote(f'data.root={_make_root(folder)}')}",
        )
    return _describe_split(
        f"{folder} is a COCO dataset without val.json, not a recipe; to train on it,", folder
    )


def _describe_coco_file(file: Path) -> tuple[str, bool]:
    """Describe a COCO file and whether its images are where a recipe looks for them."""
    folder = file.parent
    if (folder / "train.json").is_file() and (folder / "val.json").is_file():
        return _describe_coco_folder(folder).replace(str(folder), str(file), 1), True
    start = _read_start(file)
    name = _FILE_NAME.search(start)
    has_images = name is None or b'"images_root"' in start or _has_file(folder, name[1])
    message = _describe_split(f"{file} is a COCO dataset, not a recipe; to train on it,", file)
    return message, has_images


def _has_file(folder: Path, name: bytes) -> bool:
    """Return whether a folder has the file that a JSON string names."""
    try:
        return Path(folder, str(json.loads(name))).is_file()
    except (ValueError, OSError):  # invalid UTF-8, a zero byte, or too long a name
        return False


def _describe_split(start: str, source: Path) -> str:
    file = source / "train.json" if source.is_dir() else source
    name = _choose_name(source, "-splits")
    return _format_commands(
        start,
        f"data split {_quote(file)} --out {_quote(get_data_root() / name)}",
        f"finetune {RECIPE_BY_CONTENT['boxes']} {_quote(f'data.root={name}')}",
    )


def format_conversion(
    title: str,
    source: Path,
    format_name: str = "FORMAT",
    recipe: str = "RECIPE",
    options: Sequence[str] = (),
    *,
    needs_split: bool = False,
) -> str:
    """Return the commands that convert a dataset and train a recipe on it.

    Args:
        title: Start of the message, without `run:`.
        source: Dataset.
        format_name: Name of its format.
        recipe: Name of a recipe for it; empty if there is nothing to train on.
        options: Options of the format, as `key=value`.
        needs_split: Whether the converted data needs a val split.
    """
    name = _choose_name(source)
    out = get_data_root() / name
    commands = [f"data convert {shlex.join([format_name, str(source), str(out), *options])}"]
    if needs_split:
        name = f"{name}-splits"
        splits = get_data_root() / name
        commands.append(f"data split {_quote(out / 'train.json')} --out {_quote(splits)}")
    if recipe:
        commands.append(f"finetune {recipe} {_quote(f'data.root={name}')}")
    return _format_commands(title, *commands)


def _format_commands(title: str, *commands: str) -> str:
    """Return a message with the commands to run, one per line."""
    lines = [f"  resnet-tasks {command}" for command in commands]
    if "data convert FORMAT" in lines[0]:
        lines.append("Formats: resnet-tasks data convert")
    return "\n".join([f"{title} run:", *lines, "Other recipes: resnet-tasks recipes list"])


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


def is_coco_file(file: Path) -> bool:
    """Return whether a file begins like COCO."""
    start = _read_start(file).removeprefix(codecs.BOM_UTF8)
    return start.lstrip().startswith(b"{") and _COCO_KEYS.search(start) is not None


def _read_start(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(START_LENGTH)


def _read_dataset_yaml(file: Path) -> Any:
    """Return the content of a YAML file; None if it cannot describe a dataset."""
    try:
        text = read_yaml_text(file)
        # YOLO files number their classes, which a recipe does not allow.
        is_candidate = _DATASET_KEYS.search(text) is not None
        return parse_yaml(text, str(file), number_keys=True).value if is_candidate else None
    except (OSError, UnicodeDecodeError, RecipeError):
        return None


def _quote(text: str | Path) -> str:
    return shlex.quote(str(text))
