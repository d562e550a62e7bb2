"""In-memory cache of decoded images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation

CACHE_LIMIT = 1_000_000_000
"""Maximum size in bytes of the resized images in memory with `cache="auto"`."""


@dataclass(frozen=True)
class DecodedImage:
    """Image at the size of its sample, before any random step.

    Attributes:
        pixels: `(h, w, C)` output of `Preparation.prepare_pixels`, uint8 or float32.
        semantic: `(h, w)` output of `encode_labels`; None if pixels are not annotated or not
            requested.
        original_size: (height, width) of the stored image.
    """

    pixels: NDArray[Any]
    semantic: NDArray[Any] | None
    original_size: tuple[int, int]


class ImageCache:
    """Cache of decoded images by (position, scale).

    Args:
        limit: Maximum size in bytes. When the cache is full, further images are not added.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._cached: dict[tuple[int, float], DecodedImage] = {}
        self._room = limit

    def get(self, index: int, scale: float) -> DecodedImage | None:
        """Return the image, or None if it is not in the cache."""
        return self._cached.get((index, scale))

    def add(self, index: int, scale: float, image: DecodedImage) -> None:
        """Add an image if there is room."""
        semantic = image.semantic
        num_bytes = image.pixels.nbytes + (0 if semantic is None else semantic.nbytes)
        if num_bytes <= self._room:
            self._room -= num_bytes
            self._cached[index, scale] = image


def fits_in_memory(sizes: NDArray[np.int64], preparation: Preparation) -> bool:
    """Return whether all images, each with a label map, fit into `CACHE_LIMIT` bytes as uint8."""
    total = 0
    for size, count in zip(*np.unique(sizes, axis=0, return_counts=True), strict=True):
        height, width = preparation.compute_input_size((int(size[0]), int(size[1])))
        total += int(count) * height * width * (preparation.channels + 1)
    return total <= CACHE_LIMIT


def make_cache(
    mode: bool | str, sizes: NDArray[np.int64], preparation: Preparation
) -> ImageCache | None:
    """Return a cache, or None if images are not kept in memory.

    Args:
        mode: True, False, or "auto" to keep images only if all of them fit.
        sizes: `(N, 2)` int64 (height, width) of the stored images.
        preparation: Preparation with the final sizes and channels.
    """
    if mode == "auto":
        # The limit is still needed: images that become float32 take more than the estimated 8 bits.
        return ImageCache(CACHE_LIMIT) if fits_in_memory(sizes, preparation) else None
    return ImageCache() if mode else None
