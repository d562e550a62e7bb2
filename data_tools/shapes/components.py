"""Connected components of masks: pixels that touch, be it at a corner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALL_COMPONENT = 50
"""A component of fewer pixels is no object of its own; JPEG and drawing leave such specks."""
TOUCHING = np.ones((3, 3), dtype=np.int64)


class Component(NamedTuple):
    """One component.

    Attributes:
        rows: That it reaches over.
        columns: Likewise.
        pixels: Which of them, `(rows, columns)`.
        area: Number of its pixels.
    """

    rows: slice
    columns: slice
    pixels: NDArray[np.bool_]
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height."""
        height, width = self.pixels.shape
        return self.columns.start, self.rows.start, width, height

    def to_mask(self, size: tuple[int, ...]) -> NDArray[np.bool_]:
        """`size` bool: the component alone, in the whole image."""
        component_mask = np.zeros(size, dtype=np.bool_)
        component_mask[self.rows, self.columns] = self.pixels
        return component_mask


def find_components(mask: NDArray[np.bool_]) -> Iterator[Component]:
    """The components of a `(height, width)` mask, from top to bottom."""
    labels, _ = ndimage.label(mask, structure=TOUCHING)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        pixels = labels[rows, columns] == number
        yield Component(rows, columns, pixels, int(pixels.sum()))
