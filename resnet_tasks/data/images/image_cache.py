"""Pictures that were read once and are kept in memory, as far as there is room."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation

CACHE_LIMIT = 1_000_000_000
"""Bytes of resized pictures that `cache="auto"` keeps in memory."""


@dataclass(frozen=True)
class DecodedPicture:
    """A picture at the size that a sample has, before anything random.

    Attributes:
        pixels: `(h, w, C)` of `Preparation.pixels`.
        semantic: `(h, w)` of `encode_labels`; None: pixels are not annotated, or not wanted.
        original_size: (height, width) as stored.
    """

    pixels: NDArray[Any]
    semantic: NDArray[Any] | None
    original_size: tuple[int, int]


class PictureCache:
    """Decoded pictures by (position, scale).

    Args:
        limit: Bytes that it may take; what comes when it is full is not kept.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._cached: dict[tuple[int, float], DecodedPicture] = {}
        self._room = limit

    def get(self, index: int, scale: float) -> DecodedPicture | None:
        """The picture, where it was kept."""
        return self._cached.get((index, scale))

    def add(self, index: int, scale: float, picture: DecodedPicture) -> None:
        """Keeps a picture if there is room."""
        semantic = picture.semantic
        num_bytes = picture.pixels.nbytes + (0 if semantic is None else semantic.nbytes)
        if num_bytes <= self._room:
            self._room -= num_bytes
            self._cached[index, scale] = picture


def fits_in_memory(sizes: NDArray[np.int64], preparation: Preparation) -> bool:
    """Whether pictures with a label map each stay below `CACHE_LIMIT`, counted as 8 bits.

    Args:
        sizes: `(N, 2)` (height, width) as stored.
        preparation: The sizes and channels that they get.
    """
    total = 0
    for size, count in zip(*np.unique(sizes, axis=0, return_counts=True), strict=True):
        height, width = preparation.compute_input_size((int(size[0]), int(size[1])))
        total += int(count) * height * width * (preparation.channels + 1)
    return total <= CACHE_LIMIT


def make_cache(
    mode: bool | str, sizes: NDArray[np.int64], preparation: Preparation
) -> PictureCache | None:
    """A cache where pictures are to be kept.

    Args:
        mode: True, False, or "auto": where all of them fit.
        sizes: As in `fits_in_memory`.
        preparation: As in `fits_in_memory`.
    """
    if mode == "auto":
        # Deep pictures take more than the 8 bits that were counted on.
        return PictureCache(CACHE_LIMIT) if fits_in_memory(sizes, preparation) else None
    return PictureCache() if mode else None
