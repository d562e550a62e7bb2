"""Folders of images with class-index PNGs next to them, as CamVid comes with SegNet.

    ROOT/train/NAME.png        images (any common suffix)
    ROOT/trainannot/NAME.png   the index of each pixel's class, counted from 0
    ROOT/train.txt             pairs `image label_map`, one a line; same for `val` and `test`

Published lists carry path prefixes of the machine they were made on, and copies of a dataset
differ in the images' suffix: a path is tried from its end, with any suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.source_folder import (
    IMAGE_SUFFIXES,
    SPLITS,
    index_images_by_stem,
    is_file,
    read_lines,
    require_parts,
)
from data_tools.shapes.components import SMALL_COMPONENT, find_components
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.progress import Progress, ProgressCounter
from data_tools.writing.semantic_maps import choose_void_value
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError

Pair = tuple[Path, Path]


def convert_label_maps(
    source: Path,
    out: Path,
    *,
    classes: Sequence[CategorySpec],
    void: int | None = None,
    boxes: bool = False,
    copy_images: bool = False,
    license_name: str = "",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Converts every native split to COCO JSON with label maps.

    Args:
        source: Folder that holds `train.txt`, `train/`, `trainannot/` and so on.
        out: Folder for the JSON files and `semantic/`.
        classes: What index 0, 1, ... means; the ids of the output are one higher.
        void: Index of pixels that are neither trained on nor evaluated.
        boxes: Also draw a box around every connected component of a thing class. These boxes are
            derived: objects of one class that touch share a box, an object in parts has several.
        copy_images: Copy the images next to the JSON instead of referring to them.
        license_name: License of the data, for the JSON.
        progress: Called with (done, total) after each image.

    Returns:
        What was written, by split.

    Raises:
        DataError: If a folder, list or file is missing, sizes differ, or a label map holds an
            index that is no class; the message names the file.
    """
    require_parts(source, ())
    pairs = {split: split_pairs for split in SPLITS if (split_pairs := find_pairs(source, split))}
    if not pairs:
        require_parts(source, ("train", "trainannot", "train.txt"))
        raise DataError(f"{source / 'train.txt'} lists nothing; give pairs of image and label map")
    table = _build_id_table(len(classes), void)
    count = ProgressCounter(sum(map(len, pairs.values())), progress)
    summaries = []
    for split, files in pairs.items():
        writer = CocoWriter(
            out,
            split,
            classes,
            annotated=("boxes", "semantic") if boxes else ("semantic",),
            images_root=source,
            copy_images=copy_images,
            description=f"Converted from class-index maps, {split}",
            license_name=license_name,
        )
        for image, label_map in count.track(files):
            ids = indices_to_category_ids(read_label_map(label_map), table, label_map)
            add_image_with_map(writer, image, ids, box_categories=classes if boxes else ())
        summaries.append(writer.write())
    return tuple(summaries)


def convert_named_label_maps(
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
    """`convert_label_maps` with classes by name.

    Args:
        source: As there.
        out: As there.
        classes: The names of index 0, 1, ... in order.
        things: Those of them that come in objects.
        void: As there.
        boxes: As there.
        copy_images: As there.
        license_name: As there.
        progress: As there.

    Raises:
        DataError: If there are no classes, a thing is none of them, or the source is wrong.
    """
    return convert_label_maps(
        source,
        out,
        classes=build_categories(classes, things, source),
        void=void,
        boxes=boxes,
        copy_images=copy_images,
        license_name=license_name,
        progress=progress,
    )


def build_categories(
    classes: Sequence[str], things: Sequence[str], source: Path
) -> list[CategorySpec]:
    """Categories in the order of `classes`; `things` are those that come in objects.

    Raises:
        DataError: If there are no classes or a thing is none of them.
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
    """(image, label map) files of a split: by its list, else by equal names; empty if absent.

    Raises:
        DataError: If a listed file is missing or a line is no pair.
    """
    images, maps = source / split, source / f"{split}annot"
    list_file = source / f"{split}.txt"
    if list_file.is_file():
        lines = [line.split() for line in read_lines(list_file)]
        return [_parse_pair(source, line, list_file) for line in lines if line]
    if not (images.is_dir() and maps.is_dir()):
        return []
    labels = index_images_by_stem(maps)
    image_files = index_images_by_stem(images)
    for stem, file in image_files.items():
        if stem not in labels:
            raise DataError(f"{file} has no label map of that name in {maps}; add it, or a list")
    return [(file, labels[stem]) for stem, file in image_files.items()]


def _parse_pair(source: Path, words: list[str], list_file: Path) -> Pair:
    if len(words) != 2:
        raise DataError(
            f"{list_file} has the line {' '.join(words)!r}; every line should name an image and "
            "its "
            "label map, with a space between and none inside"
        )
    return _resolve_path(source, words[0], list_file), _resolve_path(source, words[1], list_file)


def _resolve_path(source: Path, name: str, list_file: Path) -> Path:
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")]
    for start in range(len(parts)):
        path = source.joinpath(*parts[start:])
        for candidate in (path, *(path.with_suffix(suffix) for suffix in IMAGE_SUFFIXES)):
            if is_file(candidate):
                return candidate
    raise DataError(
        f"{list_file} lists {name!r}, but {source} has no such file under any ending of that path; "
        "add it or take the line out"
    )


def _build_id_table(num_classes: int, void: int | None) -> NDArray[np.int64]:
    """Category id by stored index; -1 where the index means nothing. A last entry stays -1."""
    table = np.full(max(num_classes, (void or 0) + 1) + 1, -1, dtype=np.int64)
    table[:num_classes] = np.arange(1, num_classes + 1)
    if void is not None:
        table[void] = choose_void_value(num_classes)
    return table


def indices_to_category_ids(
    indices: NDArray[np.integer[Any]], table: NDArray[np.int64], file: Path
) -> NDArray[np.int64]:
    """`(height, width)` stored indices -> category ids.

    Raises:
        DataError: If an index is not in the table; it names the file, the values and the pixels.
    """
    is_in_table = (indices >= 0) & (indices < len(table))
    ids: NDArray[np.int64] = table[np.where(is_in_table, indices.astype(np.int64), -1)]
    if (ids < 0).any():
        values, counts = np.unique(indices[ids < 0], return_counts=True)
        value_text = ", ".join(
            f"{v} ({n} pixels)" for v, n in zip(values[:6], counts[:6], strict=True)
        )
        allowed_text = ", ".join(str(index) for index in np.flatnonzero(table >= 0))
        raise DataError(
            f"the label map {file} holds the unknown values {value_text}; allowed are "
            f"{allowed_text}: "
            "correct the map, or give all classes and the void index"
        )
    return ids


def add_image_with_map(
    writer: CocoWriter,
    image: Path,
    ids: NDArray[np.int64],
    *,
    box_categories: Sequence[CategorySpec],
) -> None:
    """Adds an image with its label map.

    Args:
        writer: Of the split.
        image: The file.
        ids: `(height, width)` category ids.
        box_categories: Categories in order of their ids, from 1: each connected component of a
            thing among
            them gets a box, small ones as crowd. Empty: no boxes.
    """
    image_id = writer.add_image(image)
    writer.add_semantic(image_id, ids)
    for category_id, category in enumerate(box_categories, start=1):
        if not category.isthing:
            continue
        for component in find_components(ids == category_id):
            is_small = component.area < SMALL_COMPONENT
            writer.add_box(image_id, category.name, component.box, iscrowd=is_small)
