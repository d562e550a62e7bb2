"""Bit depths of the images of a dataset, from the headers of their files.

The intensity step `auto` divides 8-bit images by 255 and 16-bit images by 65535. In a dataset that
mixes depths, equal exposures may therefore reach the network with different values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from resnet_tasks.data.images.image_files import (
    DAMAGE,
    detect_file_kind,
    memmap_array,
    open_image_file,
)
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

STORED_BITS = "bits_stored"
"""Key in the `attributes` of an image record: number of bits that its source used, 1 to 16."""
REMEDY = "set data.intensity.type=percentile, or store all images with one bit depth"

_JPEG_SUFFIXES = (".jpg", ".jpeg")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Offset of the bit depth in a PNG."""


class BitDepths:
    """Number of images of every bit depth.

    Attributes:
        stored: Number of images by the 8 or 16 bits of their files' unsigned values.
        used: Number of images by the number of bits that their source used, as far as stated.
    """

    def __init__(self) -> None:
        self.stored: Counter[int] = Counter()
        self.used: Counter[int] = Counter()

    def add(self, path: Path, extra: Mapping[str, Any]) -> None:
        """Add an image; files that cannot be read are ignored.

        Args:
            path: Path of the image.
            extra: Further keys of its record.
        """
        attributes = extra.get("attributes")
        bits = attributes.get(STORED_BITS) if isinstance(attributes, dict) else None
        if isinstance(bits, int) and 1 <= bits <= 16:
            self.used[bits] += 1
        elif (depth := read_bit_depth(path)) is not None:
            self.stored[depth] += 1

    def __add__(self, other: BitDepths) -> BitDepths:
        total = BitDepths()
        total.stored = self.stored + other.stored
        total.used = self.used + other.used
        return total

    def describe_mixture(self, step: Intensity | None = None) -> str | None:
        """Return the number of images of every depth if they differ, else None.

        Args:
            step: Intensity step of the recipe. Percentiles suit any mixture. A window suits images
                of 8 and 16 bits with the same unit. None: not known yet.
        """
        step = step or Intensity()
        if step.type == "percentile":
            return None
        depths = self.used + self.stored if step.type == "auto" else self.used
        if len(depths) < 2:
            return None
        return ", ".join(f"{Count(n):image} of {Count(b):bit}" for b, n in sorted(depths.items()))


def read_bit_depth(path: Path) -> int | None:
    """Return the bits per value of an unsigned image of 8 or 16 bits, from its header.

    Returns:
        8 or 16; None for other types, whose range `auto` does not assume, and unreadable files.
    """
    if path.suffix.lower() in _JPEG_SUFFIXES:
        return 8
    try:
        kind = detect_file_kind(path)
        if kind == "numpy":
            return _get_unsigned_bits(memmap_array(path).dtype)
        if kind == "tiff":
            with open_tiff(path) as tiff:
                return _get_unsigned_bits(tiff.pages.first.dtype)
        with open_image_file(path) as stream:
            start = stream.read(_PNG_DEPTH + 1)
    except (DataError, Image.DecompressionBombError, *DAMAGE):
        return None
    is_deep = start.startswith(_PNG_START) and start[_PNG_DEPTH:] == b"\x10"
    return 16 if is_deep else 8


def _get_unsigned_bits(dtype: Any) -> int | None:
    is_known = dtype is not None and dtype.kind == "u" and dtype.itemsize <= 2
    return 8 * dtype.itemsize if is_known else None
