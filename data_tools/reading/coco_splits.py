"""Search for the COCO files of a dataset by the names of its splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data_tools.reading.source_folder import (
    SPLIT_ALIASES,
    SPLITS,
    find_split_folder,
    format_listing,
    is_folder,
)
from resnet_tasks.data.images.find_images import list_children
from resnet_tasks.errors import DataError

ROBOFLOW_FILE = "_annotations.coco.json"
OTHER_TASKS = {"captions", "panoptic"}
"""Words in the names of COCO's files that contain no boxes."""


def find_coco_splits(source: Path) -> dict[str, Path]:
    """Return the COCO files of a folder by split; for a single file, the split in its name.

    Files are searched in the folder, in its `annotations`, and in folders named after a split.
    `train.json` takes precedence over `instances_train2017.json`, and that over other names that
    contain the split as a word, of which those of captions and panoptic files come last;
    `training`, `valid` and `validation` are names of splits too. A single file without a split in
    its name (`instances_default.json`, `result.json`) is `train`.

    Raises:
        DataError: If there are no such files, or two files match the same split.
    """
    if not source.is_dir():
        folder = source.resolve().parent.name.lower()
        folder_split = SPLIT_ALIASES.get(folder, folder)
        splits = _parse_splits(source.stem) or [split for split in SPLITS if split == folder_split]
        return {splits[0] if len(splits) == 1 else "train": source}
    files = [*_list_json_files(source), *_list_json_files(source / "annotations")]
    files_by_split = {}
    for split in SPLITS:
        matching = [file for file in files if _parse_splits(file.stem) == [split]]
        file = _choose_file(split, matching) or _find_in_split_folder(split, source)
        if file is not None:
            files_by_split[split] = file
    if not files_by_split and len(files) == 1:
        return {"train": files[0]}
    if not files_by_split:
        raise DataError(
            f"{source} contains none of train.json, val.json, test.json, nor files or folders "
            f"whose names contain a split; found {format_listing(source)}: pass a file"
        )
    return files_by_split


def _list_json_files(folder: Path) -> list[Path]:
    if not is_folder(folder):
        return []
    return [file for file in list_children(folder) if file.suffix.lower() == ".json"]


def _choose_file(split: str, matching: Sequence[Path]) -> Path | None:
    exact = [file for file in matching if file.stem == split]
    instances = [file for file in matching if "instances" in file.stem]
    with_objects = [file for file in matching if not OTHER_TASKS & set(_list_words(file.stem))]
    candidates = exact or instances or with_objects or matching
    if len(candidates) > 1:
        raise DataError(
            f"{candidates[0]} and {candidates[1]} both belong to the split {split}; choose one "
            f"with annotations={{{split}: FILE}}"
        )
    return candidates[0] if candidates else None


def _find_in_split_folder(split: str, source: Path) -> Path | None:
    """Return the COCO file in the folder of a split, such as `valid/_annotations.coco.json`."""
    folder = find_split_folder(source, split)
    files = [] if folder is None else _list_json_files(folder)
    exact = [file for file in files if file.name == ROBOFLOW_FILE]
    candidates = exact or files
    if len(candidates) > 1:
        raise DataError(
            f"{candidates[0]} and {candidates[1]} are both in the folder of the split {split}; "
            f"choose one with annotations={{{split}: FILE}}"
        )
    return candidates[0] if candidates else None


def _parse_splits(name: str) -> list[str]:
    """Return the splits whose names are words of a file name."""
    splits = {SPLIT_ALIASES.get(word, word) for word in _list_words(name)}
    return [split for split in SPLITS if split in splits]


def _list_words(name: str) -> list[str]:
    return re.split(r"[^a-z]+", name.lower())
