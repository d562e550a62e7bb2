"""Images that were read once and are kept in memory, as far as there is room."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation

CACHE_LIMIT = 1_000_000_000
"""Bytes of resized images that `cache="auto"` keeps in memory."""


@dataclass(frozen=True)
class DecodedImage:
    """An image at the size that a sample has, before anything random.

    Attributes:
        pixels: `(h, w, C)` of `Preparation.pixels`.
        semantic: `(h, w)` of `encode_labels`; None: pixels are not annotated, or not wanted.
        original_size: (height, width) as stored.
    """

    pixels: NDArray[Any]
    semantic: NDArray[Any] | None
    original_size: tuple[int, int]


class ImageCache:
    """Decoded images by (position, scale).

    Args:
        limit: Bytes that it may take; what comes when it is full is not kept.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._cached: dict[tuple[int, float], DecodedImage] = {}
        self._room = limit

    def get(self, index: int, scale: float) -> DecodedImage | None:
        """The image, where it was kept."""
        return self._cached.get((index, scale))

    def add(self, index: int, scale: float, image: DecodedImage) -> None:
        """Keeps an image if there is room."""
        semantic = image.semantic
        num_bytes = image.pixels.nbytes + (0 if semantic is None else semantic.nbytes)
        if num_bytes <= self._room:
            self._room -= num_bytes
            self._cached[index, scale] = image


def fits_in_memory(sizes: NDArray[np.int64], preparation: Preparation) -> bool:
    """Whether images with a label map each stay below `CACHE_LIMIT`, counted as 8 bits.

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
) -> ImageCache | None:
    """A cache where images are to be kept.

    Args:
        mode: True, False, or "auto": where all of them fit.
        sizes: As in `fits_in_memory`.
        preparation: As in `fits_in_memory`.
    """
    if mode == "auto":
        # Deep images take more than the 8 bits that were counted on.
        return ImageCache(CACHE_LIMIT) if fits_in_memory(sizes, preparation) else None
    return ImageCache() if mode else None
