"""Converter for folders of images and class-index PNGs, as in the CamVid of SegNet.

    ROOT/train/NAME.png        images (any common suffix)
    ROOT/trainannot/NAME.png   class index of each pixel, from 0
    ROOT/train.txt             pairs `image label_map`, one per line; same for `val` and `test`

Published lists contain path prefixes of the machine where they were created, and copies of a
dataset differ in the suffix of the images. Leading parts of a listed path are therefore removed
until a file exists, with any image suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_index import ImageIndex
from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    SPLITS,
    is_file,
    iterate_path_endings,
    read_lines,
    require_parts,
)
from data_tools.shapes.components import SMALL_COMPONENT, find_components
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.semantic_maps import choose_void_value
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

Pair = tuple[Path, Path]


def convert_label_maps(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] = (),
    things: Sequence[str] = (),
    void: int | None = None,
    boxes: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Convert every split of the source to COCO JSON with label maps.

    Args:
        source: Path of the folder that contains `train.txt`, `train/`, `trainannot/` and so on.
        out: Path of the folder for the JSON files and `semantic/`.
        classes: Names of the classes of the indices 0, 1, ... in order; the category ids of the
            output are one higher.
        things: Names of the thing classes, a subset of `classes`.
        void: Index of pixels that are neither trained on nor evaluated.
        boxes: Whether to also write a box for every connected component of a thing class. Such
            boxes are derived: touching objects of one class share a box, and an object that
            consists of several parts has several boxes.
        copy_images: Whether to copy the images next to the JSON instead of referring to them.
        license_name: License of the data, which is written to the JSON.
        progress: Function called with (done, total) after each image.

    Returns:
        Summary of the written files of each split.

    Raises:
        DataError: If there are no classes, a thing is not a class, a folder, list or file is
            missing, sizes differ, or a label map contains an index without a class. The message
            names the file.
    """
    categories = build_categories(classes, things, source)
    require_parts(source, ())
    pairs = {split: split_pairs for split in SPLITS if (split_pairs := find_pairs(source, split))}
    if not pairs:
        require_parts(source, ("train", "trainannot", "train.txt"))
        raise DataError(
            f"{source / 'train.txt'} is empty; each line must name an image and its label map"
        )
    table = _build_id_table(len(classes), void)
    dataset = DatasetWriter(
        out,
        categories,
        annotated=("boxes", "semantic") if boxes else ("semantic",),
        description="Converted from class-index maps, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )

    def add_image(writer: CocoWriter, pair: Pair) -> None:
        image, label_map = pair
        ids = indices_to_category_ids(read_label_map(label_map), table, label_map)
        add_image_with_map(writer, image, ids, box_categories=categories if boxes else ())

    return dataset.write(track_splits(pairs, progress), add_image)


def build_categories(
    classes: Sequence[str], things: Sequence[str], source: Path
) -> list[CategorySpec]:
    """Return one category per class, in the same order.

    Args:
        classes: Names of the classes.
        things: Names of the thing classes, a subset of `classes`.
        source: Path of the source, for the error message.

    Raises:
        DataError: If there are no classes, or a thing is not a class.
    """
    if not classes:
        raise DataError(
            f"the label maps of {source} need classes: the names of index 0, 1, ... in order"
        )
    unknown = [name for name in things if name not in classes]
    if unknown:
        raise DataError(f"the thing {unknown[0]!r} is not among the classes {', '.join(classes)}")
    return [CategorySpec(name, isthing=name in things) for name in classes]


def find_pairs(source: Path, split: str) -> list[Pair]:
    """Return the (image, label map) paths of a split, by its list or else by equal names.

    The result is empty if the source does not contain the split.

    Raises:
        DataError: If a listed file is missing, a line is not a pair, or an image has no label map.
    """
    images, maps = source / split, source / f"{split}annot"
    list_file = source / f"{split}.txt"
    if list_file.is_file():
        lines = [line.split() for line in read_lines(list_file)]
        return [_parse_pair(source, line, list_file) for line in lines if line]
    if not (images.is_dir() and maps.is_dir()):
        return []
    labels, files_by_name = ImageIndex(maps).by_name, ImageIndex(images).by_name
    for name, file in files_by_name.items():
        if name not in labels:
            raise DataError(f"{file} has no label map of that name in {maps}; add it, or a list")
    return [(file, labels[name]) for name, file in files_by_name.items()]


def _parse_pair(source: Path, words: list[str], list_file: Path) -> Pair:
    if len(words) != 2:
        raise DataError(
            f"{list_file} has the line {' '.join(words)!r}; every line must name an image and its "
            "label map, separated by a space, without spaces in the names"
        )
    return _resolve_path(source, words[0], list_file), _resolve_path(source, words[1], list_file)


def _resolve_path(source: Path, name: str, list_file: Path) -> Path:
    for path in iterate_path_endings(source, name):
        for candidate in (path, *(path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)):
            if is_file(candidate):
                return candidate
    raise DataError(
        f"{list_file} lists {name!r}, but {source} has no such file under any ending of that path; "
        "add the file or remove the line"
    )


def _build_id_table(num_classes: int, void: int | None) -> NDArray[np.int64]:
    """Return the `(num_indices + 1,)` category id of each stored index, -1 for unknown indices.

    The additional last entry is always -1; unknown indices are looked up there as `table[-1]`.
    """
    table = np.full(max(num_classes, (void or 0) + 1) + 1, -1, dtype=np.int64)
    table[:num_classes] = np.arange(1, num_classes + 1)
    if void is not None:
        table[void] = choose_void_value(num_classes)
    return table


def indices_to_category_ids(
    indices: NDArray[np.integer[Any]], table: NDArray[np.int64], file: Path
) -> NDArray[np.int64]:
    """Convert `(height, width)` stored indices to category ids.

    Args:
        indices: `(height, width)` stored class indices.
        table: Category id of each index, from `_build_id_table`.
        file: Path of the label map, for the error message.

    Raises:
        DataError: If an index is unknown. The message has the file, the values and the numbers of
            pixels.
    """
    is_in_table = (indices >= 0) & (indices < len(table))
    ids: NDArray[np.int64] = table[np.where(is_in_table, indices.astype(np.int64), -1)]
    if (ids < 0).any():
        values, counts = np.unique(indices[ids < 0], return_counts=True)
        value_text = ", ".join(
            f"{v} ({Count(n):pixel})" for v, n in zip(values[:6], counts[:6], strict=True)
        )
        allowed_text = ", ".join(str(index) for index in np.flatnonzero(table >= 0))
        raise DataError(
            f"the label map {file} holds the unknown values {value_text}; allowed: {allowed_text}; "
            "correct the map, or set all classes and the void index"
        )
    return ids


def add_image_with_map(
    writer: CocoWriter,
    image: Path,
    ids: NDArray[np.int64],
    *,
    box_categories: Sequence[CategorySpec],
) -> None:
    """Add an image with its label map to a split.

    Args:
        writer: Writer of the split.
        image: Path of the image.
        ids: `(height, width)` category ids.
        box_categories: Categories in the order of their ids, from 1. Each connected component of a
            thing class gets a box, which is a crowd if the component is small. Empty: no boxes.
    """
    image_id = writer.add_image(image)
    writer.add_semantic(image_id, ids)
    for category_id, category in enumerate(box_categories, start=1):
        if not category.isthing:
            continue
        for component in find_components(ids == category_id):
            is_small = component.area < SMALL_COMPONENT
            writer.add_box(image_id, category.name, component.box, iscrowd=is_small)
