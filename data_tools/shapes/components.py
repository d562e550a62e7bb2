"""Connected components of masks; pixels that touch at a corner are connected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SMALL_COMPONENT = 50
"""Number of pixels below which a component is not an object: JPEG compression and drawing tools
leave such specks."""
TOUCHING = np.ones((3, 3), dtype=np.int64)


class Component(NamedTuple):
    """One connected component of a mask.

    Attributes:
        rows: Rows that the component spans.
        columns: Columns that the component spans.
        pixels: (rows, columns) bool, pixels of the component in that window.
        area: Number of pixels of the component.
    """

    rows: slice
    columns: slice
    pixels: NDArray[np.bool_]
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the component in pixels."""
        height, width = self.pixels.shape
        return self.columns.start, self.rows.start, width, height

    def to_mask(self, size: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return the component alone as a bool mask of the whole image.

        Args:
            size: (height, width) of the image.
        """
        component_mask = np.zeros(size, dtype=np.bool_)
        component_mask[self.rows, self.columns] = self.pixels
        return component_mask


def find_components(mask: NDArray[np.bool_]) -> Iterator[Component]:
    """Yield the connected components of a (height, width) mask from top to bottom."""
    labels, _ = ndimage.label(mask, structure=TOUCHING)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        pixels = labels[rows, columns] == number
        yield Component(rows, columns, pixels, int(pixels.sum()))
