"""Bit depths of the images of a dataset, from the headers of their files.

The intensity step `auto` divides 8-bit images by 255 and 16-bit images by 65535. In a dataset that
mixes depths, equal exposures may therefore reach the network with different values. A detector of
12 bits whose values are stored in 16 bits uses a sixteenth of the range, so that the network sees
nearly black images. Headers reveal this only in TIFFs that state their largest value. (The chunk
sBIT of a PNG does not: by the specification, its values are scaled to the full range.) The pixels
reveal it otherwise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_files import (
    DAMAGE,
    memmap_array,
    open_image_file,
    try_read_image_size,
)
from resnet_tasks.data.images.image_formats import NUMPY, TIFF, identify_format, read_start
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

STORED_BITS = "bits_stored"
"""Key in the `attributes` of an image record: number of bits that its source used, 1 to 16."""
_PERCENTILE = "data.intensity.type=percentile"
REMEDY = f"set {_PERCENTILE}, or store all images with one bit depth"

MAX_USED_BITS = 14
"""Images of 16 bits whose largest value needs at most so many bits use a quarter of the range."""
MIN_USED_BITS = 9
"""Fewest bits of a detector whose values need 16 bits in a file."""
NUM_SAMPLES = 16
"""Maximum number of images of 16 bits whose pixels are read if the others are not read anyway."""
MAX_SAMPLE_PIXELS = 1 << 24
"""Maximum number of pixels of such an image."""

_LARGEST_VALUE_TAGS = (281, 341)
"""TIFF's MaxSampleValue and SMaxSampleValue, the largest value that occurs."""
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24
"""Offset of the bit depth in a PNG."""


class BitDepths:
    """Number of images of every bit depth.

    Attributes:
        stored: Number of images by the 8 or 16 bits of their files' unsigned values.
        used: Number of images by the number of bits that their source used, as far as stated.
        largest: Number of images of 16 bits by their largest value, as far as pixels were read.
    """

    def __init__(self) -> None:
        self.stored: Counter[int] = Counter()
        self.used: Counter[int] = Counter()
        self.largest: Counter[int] = Counter()
        self._num_deep = 0
        self._samples: list[Path] = []
        self._is_sampled = False
        self._random = random.Random(0)

    def add(self, path: Path, extra: Mapping[str, Any]) -> None:
        """Add an image; files that cannot be read are ignored.

        Args:
            path: Path of the image.
            extra: Further keys of its record.
        """
        self.add_depth(path, extra, read_bit_depth(path))

    def add_depth(self, path: Path, extra: Mapping[str, Any], depth: BitDepth | None) -> None:
        """Add an image whose header was read; see `read_bit_depth` for its depth."""
        attributes = extra.get("attributes")
        bits = attributes.get(STORED_BITS) if isinstance(attributes, dict) else None
        if isinstance(bits, int) and 1 <= bits <= 16:
            depth = BitDepth(16, bits)
        if depth is None:
            return
        if depth.used is not None:
            self.used[depth.used] += 1
        else:
            self.stored[depth.stored] += 1
        if depth.stored == 16:
            self._add_sample(path)

    def _add_sample(self, path: Path) -> None:
        """Keep a random sample of the paths: images in a fixed order may alternate in depth."""
        self._num_deep += 1
        if len(self._samples) < NUM_SAMPLES:
            self._samples.append(path)
        elif (position := self._random.randrange(self._num_deep)) < NUM_SAMPLES:
            self._samples[position] = path

    def add_largest(self, value: int | None) -> None:
        """Add the largest value of an image; see `find_largest`."""
        if value is not None:
            self.largest[value] += 1

    def read_samples(self) -> None:
        """Read the pixels of up to `NUM_SAMPLES` of the images of 16 bits, unless some were added.

        Unreadable and very large images are skipped.
        """
        if self.largest:
            return
        self._is_sampled = self._num_deep > len(self._samples)
        for path in self._samples:
            size = try_read_image_size(path)
            if size is None or size[0] * size[1] > MAX_SAMPLE_PIXELS:
                continue
            try:
                self.add_largest(find_largest(decode_image(path).pixels))
            except DataError:
                continue

    def __add__(self, other: BitDepths) -> BitDepths:
        total = BitDepths()
        total.stored = self.stored + other.stored
        total.used = self.used + other.used
        total.largest = self.largest + other.largest
        total._is_sampled = self._is_sampled or other._is_sampled
        return total

    def describe_unused_bits(self, step: Intensity | None = None) -> str | None:
        """Return a warning if images of 16 bits look like those of a detector with fewer bits.

        This is the case if none of them has larger values, or if the largest value of some of them
        is exactly the largest of 9 to 14 bits. A mixture of depths has the same remedy, so that
        this warning does not follow the one of `describe_mixture`.

        Args:
            step: Intensity step of the recipe; only `auto` assumes the full range. None: not known
                yet.
        """
        is_auto = (step or Intensity()).type == "auto"
        if not (self.largest and is_auto) or self.describe_mixture(step) is not None:
            return None
        largest, remedy = max(self.largest), _PERCENTILE
        number, total = self.largest.total(), self.largest.total()
        if largest.bit_length() <= MAX_USED_BITS:
            # Detectors have 8, 10, 12 or 14 bits, and other images may have larger values.
            bits = max(8, largest.bit_length() + largest.bit_length() % 2, *self.used)
            remedy = _format_window(bits)
        else:
            limits = {(1 << n) - 1: n for n in range(MIN_USED_BITS, MAX_USED_BITS + 1)}
            saturated = {value: n for value, n in self.largest.items() if value in limits}
            if not saturated:
                return None
            largest = max(saturated, key=lambda value: saturated[value])
            number, bits = saturated[largest], limits[largest]
        noun = "sampled image" if self._is_sampled else "image"
        images = f"{Count(total):{noun}} of 16 bits"
        images = images if number == total else f"{number} of {images}"
        hint = "; `resnet-tasks data stats FILE` reads all images" if self._is_sampled else ""
        return (
            f"the largest value in {images} is {largest}, which looks "
            f"like {Count(bits):bit}, but data.intensity.type=auto divides by 65535, so that the "
            f"model receives values of at most {largest / 65535:.2g}; set {remedy}{hint}"
        )

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


def find_largest(pixels: NDArray[Any]) -> int | None:
    """Return the largest value of an image of 16 bits; None for other types."""
    return int(pixels.max()) if pixels.dtype == np.uint16 else None


def _format_window(bits: int) -> str:
    """Return the settings that map all values of a number of bits to 0..1."""
    width = (1 << bits) - 1
    return (
        f"data.intensity.type=window data.intensity.level={width / 2:g} "
        f"data.intensity.width={width}"
    )


class BitDepth(NamedTuple):
    """Bit depth of an image by its header.

    Attributes:
        stored: 8 or 16 bits of its unsigned values.
        used: Bits of the largest value that the header of a TIFF of 16 bits states; None if it
            states none, or one of 16 bits.
    """

    stored: int
    used: int | None = None


def read_bit_depth(path: Path) -> BitDepth | None:
    """Return the bits per value of an unsigned image of 8 or 16 bits, from its header.

    Returns:
        The depth; None for other types, whose range `auto` does not assume, and unreadable files.
    """
    if path.suffix.lower() in _JPEG_SUFFIXES:
        return BitDepth(8)
    try:
        with open_image_file(path) as stream:
            start = read_start(stream)
            kind = identify_format(start)
        if kind == NUMPY:
            return _get_unsigned_bits(memmap_array(path).dtype)
        if kind == TIFF:
            with open_tiff(path) as tiff:
                page = tiff.pages.first
                depth = _get_unsigned_bits(page.dtype)
                is_deep = depth is not None and depth.stored == 16
                return BitDepth(16, _read_used_bits(page)) if is_deep else depth
    except (DataError, Image.DecompressionBombError, *DAMAGE):
        return None
    is_deep = start.startswith(_PNG_START) and start[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10"
    return BitDepth(16 if is_deep else 8)


def _get_unsigned_bits(dtype: Any) -> BitDepth | None:
    is_known = dtype is not None and dtype.kind == "u" and dtype.itemsize <= 2
    return BitDepth(8 * dtype.itemsize) if is_known else None


def _read_used_bits(page: Any) -> int | None:
    tags = [page.tags.get(code) for code in _LARGEST_VALUE_TAGS]
    values = [tag.value for tag in tags if tag is not None]
    flat = [value for entry in values for value in np.ravel(entry).tolist()]
    bits = int(max(flat, default=0)).bit_length()
    return bits if 1 <= bits < 16 else None
