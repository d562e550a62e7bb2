"""Images cut into windows of one size: where they lie, and how much each counts where they meet.

Shape glossary: `h, w` an image, `n` windows along an axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def from_size(cls, size: tuple[int, int]) -> Tile:
        """All of an image of this (height, width)."""
        return cls(0, 0, *size)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.height, self.width)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy, pixels of the image."""
        return (self.left, self.top, self.left + self.width, self.top + self.height)

    @property
    def rows(self) -> slice:
        """Its rows in the image."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns in the image."""
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True)
class WindowGrid:
    """Windows of one size that cover an image, evenly spread.

    Attributes:
        height: Of a window, pixels.
        width: Of a window, pixels.
        overlap: Least share of a window that its neighbor shows too, 0..1.
    """

    height: int
    width: int
    overlap: float = 0.25

    def compute_row_starts(self, size: tuple[int, int]) -> list[int]:
        """The first rows of the windows over an image of this (height, width)."""
        return compute_window_starts(size[0], self.height, self.overlap)

    def compute_column_starts(self, size: tuple[int, int]) -> list[int]:
        """The first columns of the windows over an image of this (height, width)."""
        return compute_window_starts(size[1], self.width, self.overlap)

    def make_tiles(self, size: tuple[int, int]) -> list[Tile]:
        """The windows over an image of this (height, width), row by row.

        All have the same size; along an axis where the image is smaller than a window they have
        the image's.
        """
        height, width = min(self.height, size[0]), min(self.width, size[1])
        places = product(self.compute_row_starts(size), self.compute_column_starts(size))
        return [Tile(top, left, height, width) for top, left in places]


def compute_window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First pixels of as few windows as cover an axis, evenly spread.

    None reaches beyond the axis; neighbors share at least `overlap` of a window, more where the
    windows do not come out even (as in nnU-Net: Isensee et al., Nature Methods 2021).

    Args:
        length: Of the axis, pixels.
        window: Pixels.
        overlap: 0..1.
    """
    if length <= window:
        return [0]
    step = max(1, math.floor(window * (1 - overlap)))
    gaps = math.ceil((length - window) / step)
    return [round(i * (length - window) / gaps) for i in range(gaps + 1)]


def compute_window_weights(first: list[int], length: int, window: int) -> NDArray[np.float32]:
    """How much each window along an axis counts at each of its pixels.

    A Gaussian around the window's middle, of an eighth of its size (nnU-Net: Isensee et al., Nature
    Methods 2021), divided by the sum over all windows: where one window lies alone it counts
    exactly 1, everywhere the windows' shares add up to 1.

    Args:
        first: Of `starts`.
        length: Of the axis, pixels.
        window: Pixels.

    Returns:
        `(n, min(window, length))`.
    """
    size = min(window, length)
    offsets = (np.arange(size) - (size - 1) / 2) / (size / 8)
    bell = np.exp(-0.5 * offsets**2)
    total = np.zeros(length)
    for start in first:
        total[start : start + size] += bell
    return np.stack([bell / total[start : start + size] for start in first]).astype(np.float32)
