"""Label files and image folders of a Scalabel source, by option or by the usual names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    SPLITS,
    is_file,
    is_folder,
    require_parts,
)
from resnet_tasks.data.images.find_images import walk_files
from resnet_tasks.errors import DataError

LABELS = ("labels/det_20/det_{split}.json",)
"""Label files of BDD100K since 2020."""
IMAGES = "images/100k/{split}"
_LABEL_FOLDERS = ("labels/100k/{split}", "labels/{split}")
"""Folders of BDD100K's label files of 2018, one file per image."""
_OTHER_IMAGES = "images/{split}"


def find_label_files(source: Path, labels: Sequence[str]) -> dict[str, list[Path]]:
    """Return the label files of every split; a folder contains one file per image.

    Args:
        source: Folder of the source.
        labels: Option of the same name. If it is `LABELS`, other usual folders are searched too.

    Raises:
        DataError: If there are none.
    """
    others = [(folder,) for folder in _LABEL_FOLDERS] if tuple(labels) == LABELS else []
    for patterns in (labels, *others):
        # A pattern without {split} is a single file, which becomes `train`.
        splits = SPLITS if patterns and "{split}" in patterns[0] else SPLITS[:1]
        files = {
            split: [source / pattern.format(split=split) for pattern in patterns]
            for split in splits
        }
        existing = {
            split: paths
            for split, paths in files.items()
            if paths and (is_file(paths[0]) or is_folder(paths[0]))
        }
        if existing:
            return existing
    require_parts(source, [pattern.format(split="train") for pattern in labels])
    raise DataError(f"no label file is named for {source}; set one or more in labels")


def choose_image_pattern(source: Path, images: str, splits: Collection[str]) -> str:
    """Return the option `images`, or another usual folder if the default does not exist."""
    has_default = any(is_folder(source / images.format(split=split)) for split in splits)
    has_other = any(is_folder(source / _OTHER_IMAGES.format(split=split)) for split in splits)
    return _OTHER_IMAGES if images == IMAGES and has_other and not has_default else images


def find_image(folder: Path, name: str) -> Path:
    """Return the image of a frame, whose name may lack the suffix; it may not exist."""
    if Path(name).suffix.lower() in IMAGE_SUFFIXES:
        return folder / name
    candidates = (folder / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES)
    return next(filter(is_file, candidates), folder / f"{name}{IMAGE_SUFFIXES[0]}")


def measure_bytes(path: Path) -> int:
    """Return the size of a label file, or of all files of a folder, in bytes."""
    files = walk_files(path) if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
