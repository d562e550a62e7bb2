"""Semantic label maps: lossless images whose values are category ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import UNLABELED, VOID


def read_semantic_map(
    path: Path, categories: CategoryMap, size: tuple[int, int]
) -> NDArray[np.int64]:
    """A semantic PNG as category indices; see `category_labels`.

    Raises:
        DataError: If the file is missing, of another size, or holds a value that is no category.
    """
    return values_to_labels(read_map_values(path, size), path, categories)


def read_map_values(
    path: Path, size: tuple[int, int], max_pixels: int | None = None
) -> NDArray[np.integer[Any]]:
    """Read a semantic map as it is stored, `(height, width)`; see `read_label_map`.

    Args:
        path: Of the file.
        size: (height, width) that it must have.
        max_pixels: As in `open_image`.

    Raises:
        DataError: If the file is not a label map or has another size.
    """
    values = read_label_map(path, max_pixels)
    if values.shape != size:
        raise DataError(
            f"label map {path} is {values.shape[1]} x {values.shape[0]}, "
            f"its image {size[1]} x {size[0]} (width x height)"
        )
    return values


def values_to_labels(
    values: NDArray[np.integer[Any]], path: Path, categories: CategoryMap
) -> NDArray[np.int64]:
    """Stored values of a semantic map, or of a part of it, as category indices.

    Values are category ids; 0 is unlabeled and 255 (65535 for 16 bits) void, unless a category has
    that id.

    Raises:
        DataError: If one is no category.
    """
    unknown_value = -3
    void_value = 255 if values.dtype.itemsize == 1 else 65535
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
        known_ids = ", ".join(str(category.id) for category in categories.categories)
        raise DataError(
            f"label map {path} holds the value(s) {bad[:5]}, which are no category id "
            f"({known_ids}), nor 0 (unlabeled) or {void_value} (void)"
        )
    return np.asarray(labels, dtype=np.int64)
