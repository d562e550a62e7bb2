"""Division of images into windows of one size, and blending weights where they overlap.

Symbols: `h, w` size of an image, `n` windows along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """Rectangle of an image.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows.
        width: Number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def from_size(cls, size: tuple[int, int]) -> Tile:
        """Return the tile that covers an image of this (height, width)."""
        return cls(0, 0, *size)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return (self.height, self.width)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Box as xyxy in pixels of the image."""
        return (self.left, self.top, self.left + self.width, self.top + self.height)

    @property
    def rows(self) -> slice:
        """Slice of the image rows."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Slice of the image columns."""
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class WindowGrid:
    """Evenly spaced windows of one size that cover an image.

    Attributes:
        height: Height of a window in pixels.
        width: Width of a window in pixels.
        overlap: Minimum fraction of a window that its neighbor covers too, 0..1.
    """

    height: int
    width: int
    overlap: float = 0.25

    def compute_row_starts(self, size: tuple[int, int]) -> list[int]:
        """Return the first rows of the windows over an image of this (height, width)."""
        return compute_window_starts(size[0], self.height, self.overlap)

    def compute_column_starts(self, size: tuple[int, int]) -> list[int]:
        """Return the first columns of the windows over an image of this (height, width)."""
        return compute_window_starts(size[1], self.width, self.overlap)

    def make_tiles(self, size: tuple[int, int]) -> list[Tile]:
        """Return the windows over an image of this (height, width), row by row.

        All windows have the same size. Along an axis where the image is smaller than a window, they
        have the size of the image.
        """
        height, width = min(self.height, size[0]), min(self.width, size[1])
        places = product(self.compute_row_starts(size), self.compute_column_starts(size))
        return [Tile(top, left, height, width) for top, left in places]


def compute_window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return the first pixels of the fewest windows that cover an axis, evenly spaced.

    No window extends beyond the axis. Neighbors share at least `overlap` of a window, and more if
    the windows do not divide the axis evenly (as in nnU-Net: Isensee et al., Nature Methods 2021).

    Args:
        length: Length of the axis in pixels.
        window: Length of a window in pixels.
        overlap: Minimum fraction of a window that its neighbor covers too, 0..1.
    """
    if length <= window:
        return [0]
    step = max(1, math.floor(window * (1 - overlap)))
    gaps = math.ceil((length - window) / step)
    return [round(i * (length - window) / gaps) for i in range(gaps + 1)]


def compute_window_weights(first: list[int], length: int, window: int) -> NDArray[np.float32]:
    """Return the weight of each window along an axis at each of its pixels.

    The weight is a Gaussian around the center of the window with a standard deviation of an eighth
    of its size (nnU-Net: Isensee et al., Nature Methods 2021), divided by the sum over all windows.
    A pixel of a single window has weight exactly 1, and the weights of overlapping windows add up
    to 1.

    Args:
        first: First pixels of the windows; see `compute_window_starts`.
        length: Length of the axis in pixels.
        window: Length of a window in pixels.

    Returns:
        `(n, min(window, length))` float32 weights.
    """
    size = min(window, length)
    offsets = (np.arange(size) - (size - 1) / 2) / (size / 8)
    bell = np.exp(-0.5 * offsets**2)
    total = np.zeros(length)
    for start in first:
        total[start : start + size] += bell
    return np.stack([bell / total[start : start + size] for start in first]).astype(np.float32)
