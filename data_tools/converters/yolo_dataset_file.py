"""Files that list the classes and splits of YOLO data: data.yaml, obj.data or classes.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.reading.recorded_paths import RecordedPaths
from data_tools.reading.source_folder import (
    SPLITS,
    find_split_folders,
    format_listing,
    is_file,
    is_folder,
    read_lines,
    require_parts,
)
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.errors import DataError, shorten_name
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.yaml_text import parse_yaml

INDEX = re.compile("[0-9]{1,9}")
CLASSES_FILE = "classes.txt"
"""List of the classes that labeling tools write next to the labels or above them."""
DARKNET_SUFFIX = ".data"


@dataclass(frozen=True)
class YoloFile:
    """Classes and splits of YOLO data.

    Attributes:
        file: Path of the data.yaml, obj.data or classes.txt.
        names: Classes in order of their indices.
        indices: Index in the label files -> class name.
        splits: Split -> existing folders and lists of images.
        paths: Search for recorded paths in the folder of the file.
        absent_test: Paths of a test split that does not exist.
    """

    file: Path
    names: tuple[str, ...]
    indices: Mapping[int, str]
    splits: Mapping[str, tuple[Path, ...]]
    paths: RecordedPaths
    absent_test: tuple[str, ...]


def find_dataset_file(source: Path, data_yaml: str | None) -> Path:
    """Return the file that lists the classes: data.yaml, else obj.data, else classes.txt.

    Args:
        source: Folder of the dataset.
        data_yaml: Name of the file; None to search for it.

    Raises:
        DataError: If there is no such file, or several.
    """
    require_parts(source, () if data_yaml is None else (data_yaml,))
    if data_yaml is not None:
        return source / data_yaml
    files = list_children(source)
    yaml_files = [file for file in files if file.suffix in (".yaml", ".yml")]
    darknet_files = [file for file in files if file.suffix == DARKNET_SUFFIX and is_file(file)]
    class_files = [source / CLASSES_FILE, source / "labels" / CLASSES_FILE]
    candidates = (
        [file for file in yaml_files if file.stem == "data"]
        or yaml_files
        or darknet_files
        or [file for file in class_files if is_file(file)][:1]
    )
    if len(candidates) != 1:
        kind = (
            f"{Count(len(candidates)):YAML file}"
            if yaml_files or not candidates
            else (f"{Count(len(candidates)):{DARKNET_SUFFIX} file}")
        )
        raise DataError(
            f"{source} contains {kind}; it should contain one data.yaml with names, train and val, "
            f"or one obj.data, or {CLASSES_FILE}; found {format_listing(source)}: name the file "
            "with data_yaml=NAME"
        )
    return candidates[0]


def read_yolo_file(file: Path) -> YoloFile:
    """Read a data.yaml, obj.data or classes.txt and find the splits in its folder.

    Raises:
        DataError: If names or splits are missing or invalid.
        RecipeError: If the file is not valid YAML.
    """
    content = _read_content(file)
    root = _get_root(file)
    indices = _parse_names(content, file)
    prefix = str(content.get("path") or "").replace("\\", "/")
    paths, splits = RecordedPaths(root), {}
    absent: tuple[str, ...] = ()
    for split in SPLITS:
        entries = content.get(split, content.get("valid") if split == "val" else None)
        if entries:
            entry_list = entries if isinstance(entries, list) else [entries]
            names = [str(entry).replace("\\", "/") for entry in entry_list]
            if split == "test" and not any(paths.exists(name, prefix) for name in names):
                absent = tuple(names)  # exports state a test split that was not exported
                continue
            splits[split] = tuple(
                paths.find(name, f"{file}, {split},", split, prefix) for name in names
            )
    if not splits:
        raise DataError(
            f"{file} names none of train, val, test; each should name a folder of images, a list "
            "of them (.txt), or several"
        )
    return YoloFile(
        file, tuple(indices[index] for index in sorted(indices)), indices, splits, paths, absent
    )


def _read_content(file: Path) -> dict[str, Any]:
    """Return the keys of a data.yaml, or the corresponding keys of the other files."""
    if file.name == CLASSES_FILE:
        return _read_classes(file)
    if file.suffix == DARKNET_SUFFIX:
        return _read_darknet(file)
    text = "\n".join(read_lines(file))
    # Names such as 007 and 1.10 are text, although YAML reads unquoted ones as numbers.
    content = parse_yaml(text, str(file), number_keys=True, text_keys=("names",)).value
    if not isinstance(content, dict):
        raise DataError(
            f"{file} should contain the keys names, train and val, but is not a mapping"
        )
    if "kpt_shape" in content:
        raise DataError(
            f"{file} describes key points (kpt_shape), which are not converted; their label lines "
            "cannot be distinguished from polygons"
        )
    return content


def _get_root(file: Path) -> Path:
    """Return the folder of the dataset, which may have its classes.txt in `labels`."""
    is_in_labels = file.name == CLASSES_FILE and file.parent.name == "labels"
    return file.parent.parent if is_in_labels else file.parent


def _read_classes(file: Path) -> dict[str, Any]:
    """Return names and splits of a folder with classes.txt: `images`, its splits, or the folder."""
    root = _get_root(file)
    images = root / "images"
    names = [line.strip() for line in read_lines(file) if line.strip()]
    inner = find_split_folders(images) if is_folder(images) else {}
    folders = {**find_split_folders(root), **inner}
    splits = {split: folders[split] for split in SPLITS if split in folders}
    if not splits:
        splits = {"train": images if is_folder(images) else root}
    entries = {split: folder.relative_to(root).as_posix() for split, folder in splits.items()}
    return {"names": names, **entries}


def _read_darknet(file: Path) -> dict[str, Any]:
    """Return names and splits of Darknet's obj.data, whose lines are `key = value`."""
    pairs = (line.partition("=") for line in read_lines(file) if "=" in line)
    content: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    if not content.get("names"):
        raise DataError(f"{file} needs the key names: the path of a file with one class per line")
    names_file = RecordedPaths(file.parent).find(content["names"], str(file), "names")
    content["names"] = [line.strip() for line in read_lines(names_file) if line.strip()]
    return content


def _parse_names(content: Mapping[str, Any], file: Path) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(
            f"{file} needs names: the classes as a list, or as `index: name`; got "
            f"{shorten_name(str(names))!r}"
        )
    indices = {}
    for index, name in names.items():
        if not INDEX.fullmatch(str(index)) or isinstance(name, dict | list) or name in (None, ""):
            raise DataError(
                f"{file}: names has an entry for {index!r} that is not `index: name`; indices are "
                "whole numbers from 0, names are text"
            )
        indices[int(index)] = str(name)
    first_indices: dict[str, int] = {}
    for index, name in indices.items():
        if (first := first_indices.setdefault(name, index)) != index:
            raise DataError(
                f"{file}: names has {name!r} for the classes {first} and {index}; give each class "
                "its own name"
            )
    count = content.get("nc")
    if count is not None and str(count).strip() != str(len(indices)):
        raise DataError(
            f"{file} has nc: {count}, but names has {Count(len(indices)):class}; fix one of them"
        )
    return indices
