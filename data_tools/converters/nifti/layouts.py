"""Layouts of NIfTI datasets: paths of the volumes and meaning of their labels.

    ROOT/dataset.json                      labels (Medical Segmentation Decathlon, nnU-Net)
    ROOT/imagesTr/CASE.nii.gz              volumes, channels along the fourth axis (Decathlon)
    ROOT/imagesTr/CASE_0000.nii.gz, _0001  or one file per channel (nnU-Net)
    ROOT/labelsTr/CASE.nii.gz              their labels; imagesTs and labelsTs are `test`
    ROOT/train/images, ROOT/train/labels   without dataset.json: pairs of equal names, by split

A volume may also be a pair of .hdr and .img.

Sources: Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13 (2022), and
the `dataset.json` of its tasks; nnU-Net 2, documentation/dataset_format.md (`labels` by name,
`file_ending`, the label `ignore`, the optional `dataset`), and the format of its first version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from data_tools.reading.source_folder import format_listing, is_file, require_parts
from resnet_tasks.data.images.find_images import list_children, walk_files
from resnet_tasks.errors import DataError
from resnet_tasks.files.foreign_files import describe_foreign_files
from resnet_tasks.files.json_files import read_json

_HEADER, _VOXELS = ".hdr", ".img"
"""Suffixes of a volume that is a pair of files."""
SUFFIXES = (".nii.gz", ".nii", _HEADER)
DESCRIPTION = "dataset.json"
BACKGROUND = "background"
_PASS_PARENT = "pass the folder that contains them"
IGNORE = "ignore"
"""nnU-Net's name of the label that training and evaluation ignore."""
FOLDERS = {
    "train": (("imagesTr", "labelsTr"), ("train/images", "train/labels"), ("images", "labels")),
    "val": (("val/images", "val/labels"),),
    "test": (("imagesTs", "labelsTs"), ("test/images", "test/labels")),
}


@dataclass(frozen=True)
class Case:
    """One volume.

    Attributes:
        name: Name of the label file, without suffix.
        channels: Image files: one per channel, or a single file with channels along its fourth
            axis.
        labels: Path of the label volume.
    """

    name: str
    channels: tuple[Path, ...]
    labels: Path


@dataclass(frozen=True)
class NiftiLayout:
    """Cases and labels of a dataset of volumes.

    Attributes:
        splits: Split -> cases with labels.
        unlabeled: Split -> names of the cases without labels.
        classes: Value in the label volumes -> name, in ascending order, without background and
            void.
        void: Value that training and evaluation ignore; None if there is none.
    """

    splits: Mapping[str, tuple[Case, ...]]
    unlabeled: Mapping[str, tuple[str, ...]]
    classes: Mapping[int, str]
    void: int | None


def read_layout(source: Path, classes: Mapping[int, str] | None = None) -> NiftiLayout:
    """Find the cases of a dataset and the meaning of its labels.

    Args:
        source: Folder of the dataset.
        classes: Value in the label volumes -> name, instead of the labels in `dataset.json`; the
            names `background` and `ignore` have their special meaning.

    Raises:
        DataError: If there are no cases, a file is missing, or the meaning of the labels is not
            clear.
    """
    require_parts(source, ())
    file = source / DESCRIPTION
    metadata = _read_description(file) if file.is_file() else {}
    if classes is None and not metadata.get("labels"):
        raise DataError(
            f"{source} has no {DESCRIPTION} with labels; name the values of the label volumes, "
            "for example 'classes={1: liver, 2: tumor}'"
        )
    names = dict(classes) if classes is not None else _parse_labels(file, metadata["labels"])
    ending = str(metadata.get("file_ending", SUFFIXES[0]))
    if ending not in SUFFIXES:
        raise DataError(f"{file}: file_ending is {ending!r}; supported are {', '.join(SUFFIXES)}")
    splits, unlabeled = {}, {}
    for split in FOLDERS:
        labeled, unlabeled_names = _find_cases(source, split, metadata, file)
        if labeled:
            splits[split] = labeled
        if unlabeled_names:
            unlabeled[split] = unlabeled_names
    if "train" not in splits:
        raise DataError(
            f"{source} has no volumes with labels to train on (imagesTr and labelsTr, or images "
            f"and labels); found {format_listing(source)}: "
            f"{describe_foreign_files(walk_files(source), 'nifti') or _PASS_PARENT}"
        )
    void = [value for value, name in names.items() if name == IGNORE]
    class_names = {v: n for v, n in sorted(names.items()) if n not in (BACKGROUND, IGNORE)}
    if not class_names:
        raise DataError(f"{source}: there is no label but the background; set classes={{1: ...}}")
    return NiftiLayout(splits, unlabeled, class_names, void[0] if void else None)


def has_label_volumes(source: Path) -> bool:
    """Return whether a folder of labels of one of the known layouts contains volumes."""
    folders = [source / labels for pairs in FOLDERS.values() for _, labels in pairs]
    return any(_list_volumes(folder) for folder in folders if folder.is_dir())


def _read_description(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(
            f"{file} must contain an object with labels, got a {type(content).__name__}"
        )
    return content


def _parse_labels(file: Path, labels: object) -> dict[int, str]:
    """Return value -> name from `{"0": NAME}` (Decathlon) or `{NAME: 0}` (nnU-Net 2)."""
    if not isinstance(labels, dict):
        raise DataError(f"{file}: labels must be an object, got {labels!r}")
    names: dict[int, str] = {}
    for key, value in labels.items():
        if isinstance(value, (list, tuple)):
            raise DataError(
                f"{file}: the label {key!r} covers the values {list(value)}; regions that "
                "overlap cannot be stored in one map, so name the values with classes={1: ...}"
            )
        number, name = (key, value) if isinstance(value, str) else (value, key)
        try:
            names[_parse_number(number)] = str(name)
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{file}: the label {key!r}: {value!r} has no whole number; give value: name or "
                "name: value"
            ) from None
    return names


def _parse_number(value: object) -> int:
    """Return the whole number of a label, which is text in some files.

    Raises:
        OverflowError: If it is infinite.
        TypeError: If it is neither a number nor text.
        ValueError: If it is not a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("neither a number nor text")
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError("not a whole number")
    return number


def _find_cases(
    source: Path, split: str, metadata: Mapping[str, Any], file: Path
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """Return the cases of a split that have labels, and the names of those without labels."""
    listed_cases = metadata.get({"train": "training", "test": "test"}.get(split, ""))
    if split == "train" and isinstance(metadata.get("dataset"), dict):
        return tuple(
            _read_listed_case(source, entry, file, name)
            for name, entry in sorted(metadata["dataset"].items())
        ), ()
    if split == "train" and isinstance(listed_cases, list) and listed_cases:
        return tuple(_read_listed_case(source, entry, file) for entry in listed_cases), ()
    for images, labels in FOLDERS[split]:
        if (source / images).is_dir():
            return _pair_cases(source / images, source / labels, split)
    return (), ()


def _read_listed_case(source: Path, entry: object, file: Path, name: str | None = None) -> Case:
    if not isinstance(entry, dict) or not (entry.get("label") and _list_images(entry)):
        raise DataError(
            f"{file}: {'training' if name is None else f'dataset.{name}'} has the entry {entry!r}; "
            "it must name an image and its label"
        )
    labels = _resolve_inside(source, entry["label"], file)
    images = [
        _resolve_inside(source, image_name, file, may_have_channels=True)
        for image_name in _list_images(entry)
    ]
    channels = tuple(path for image in images for path in _find_channels(image))
    for path in (labels, *channels):
        if not is_file(path):
            raise DataError(f"{file} names {path}, which does not exist; add it")
    return Case(name or _strip_suffix(labels), channels, labels)


def _list_images(entry: Mapping[str, Any]) -> list[Any]:
    images = entry.get("images", entry.get("image"))
    return images if isinstance(images, list) else [images] if images else []


def _resolve_inside(
    source: Path, name: object, file: Path, *, may_have_channels: bool = False
) -> Path:
    parts = PurePosixPath(str(name)).parts
    if PurePosixPath(str(name)).is_absolute() or ".." in parts:
        raise DataError(
            f"{file} names {str(name)!r}, which leads out of {source}; paths are relative"
        )
    path = source.joinpath(*parts)
    if not may_have_channels and not is_file(path):
        raise DataError(f"{file} names {path}, which does not exist; add it")
    return path


def _find_channels(path: Path) -> list[Path]:
    """Return a file, or the files `NAME_0000`, `NAME_0001`, ... of nnU-Net that replace it."""
    if is_file(path):
        return [path]
    return _list_channel_files(_list_volumes(path.parent), _strip_suffix(path)) or [path]


def _pair_cases(images: Path, labels: Path, split: str) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    volumes = _list_volumes(images)
    maps = _list_volumes(labels) if labels.is_dir() else {}
    cases = []
    used_paths: set[Path] = set()
    for name, file in maps.items():
        channels = [volumes[name]] if name in volumes else _list_channel_files(volumes, name)
        if not channels:
            raise DataError(f"{file} has no volume of the same name in {images}; add it")
        used_paths.update(channels)
        cases.append(Case(name, tuple(channels), file))
    unlabeled = tuple(name for name, path in volumes.items() if path not in used_paths)
    if unlabeled and split != "test":
        raise DataError(
            f"{volumes[unlabeled[0]]} has no labels of the same name in {labels}; add them"
        )
    return tuple(cases), unlabeled


def _list_channel_files(volumes: Mapping[str, Path], name: str) -> list[Path]:
    """Return the files `name_0000`, `name_0001`, ... that exist.

    Raises:
        DataError: If a number is missing in the sequence.
    """
    numbers = sorted(
        int(stem[-4:])
        for stem in volumes
        if stem[:-5] == name and stem[-5:-4] == "_" and stem[-4:].isdecimal()
    )
    if numbers != list(range(len(numbers))):
        raise DataError(
            f"the volume {name} has the channels {numbers}; they must be numbered from 0 without "
            "gaps"
        )
    return [volumes[f"{name}_{number:04d}"] for number in numbers]


def _list_volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by name without suffix, without hidden files.

    Some archives contain a `._NAME` file of macOS for every volume.
    """
    if not folder.is_dir():
        return {}
    volumes = [file for file in list_children(folder) if file.name.endswith(SUFFIXES)]
    for file in volumes:
        if file.suffix == _HEADER and not file.with_suffix(_VOXELS).is_file():
            raise DataError(
                f"{file} is the header of a volume without {file.stem}{_VOXELS}, which holds its "
                "voxels; add it"
            )
    return {_strip_suffix(file): file for file in volumes}


def _strip_suffix(file: Path) -> str:
    endings = (*SUFFIXES, _VOXELS)
    suffix = next((ending for ending in endings if file.name.endswith(ending)), "")
    return file.name.removesuffix(suffix)
