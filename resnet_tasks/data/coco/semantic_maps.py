"""Semantic label maps: lossless images whose values are category ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError, format_allowed, format_list
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import UNLABELED, VOID


def read_semantic_map(
    path: Path, categories: CategoryMap, size: tuple[int, int]
) -> NDArray[np.int64]:
    """Return a semantic map file as `(height, width)` category indices; see `values_to_labels`.

    Raises:
        DataError: If the file is missing, has another size, or has a value that is not a category.
    """
    return values_to_labels(read_map_values(path, size), path, categories)


def read_map_values(
    path: Path, size: tuple[int, int], max_pixels: int | None = None
) -> NDArray[np.integer[Any]]:
    """Read the stored values of a semantic map, `(height, width)`; see `read_label_map`.

    Args:
        path: Path of the label map.
        size: (height, width) that the map must have.
        max_pixels: Largest accepted number of pixels; see `open_image`.

    Raises:
        DataError: If the file is not a label map or has another size.
    """
    declared = try_read_image_size(path)
    # Checked before decoding, so that no map of excessive size is decoded. The EXIF orientation of
    # the map or the image may swap height and width.
    if declared is not None and sorted(declared) != sorted(size):
        raise DataError(_format_other_size(path, declared, size))
    values = read_label_map(path, max_pixels)
    if values.shape != size:
        raise DataError(_format_other_size(path, values.shape, size))
    return values


def _format_other_size(path: Path, actual: tuple[int, ...], size: tuple[int, int]) -> str:
    return (
        f"label map {path} is {actual[1]} x {actual[0]}, but its image is {size[1]} x {size[0]} "
        "(width x height)"
    )


def values_to_labels(
    values: NDArray[np.integer[Any]], path: Path, categories: CategoryMap
) -> NDArray[np.int64]:
    """Return the stored values of a semantic map, or of a part of it, as category indices.

    Values are category ids. 0 is unlabeled and 255 (65535 for 16 bits) is void, unless a category
    has that id.

    Raises:
        DataError: If a value is not a category.
    """
    unknown_value = -3
    void_value = 255 if values.dtype.itemsize == 1 else 65535
    # One table lookup per pixel is faster than one comparison per category.
    table = np.full(void_value + 1, unknown_value, dtype=np.int64)
    table[0], table[void_value] = UNLABELED, VOID
    for index, category in enumerate(categories.categories):
        if 0 <= category.id <= void_value:
            table[category.id] = index
    clipped = np.clip(values.astype(np.int64), 0, void_value)
    labels = table[clipped]
    if (labels == unknown_value).any() or (clipped != values).any():
        bad = sorted(
            {int(v) for v in np.unique(values[(labels == unknown_value) | (clipped != values)])}
        )
        known_ids = format_allowed(categories.ids)
        raise DataError(
            f"label map {path} holds {Count(len(bad)):value} other than a category id "
            f"({known_ids}), 0 (unlabeled) and {void_value} (void): {format_list(bad)}"
        )
    return np.asarray(labels, dtype=np.int64)
