"""Images of any depth and number of channels, written without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from data_tools.reading.image_io import write_image

Array = NDArray[Any]

INTEGER_TYPES: tuple[type[np.integer[Any]], ...] = (
    *(np.uint8, np.uint16, np.int16),
    *(np.uint32, np.int32),
)
"""Types of images of whole numbers; the first that holds all values is taken."""


def choose_smallest_dtype(low: float, high: float, *, is_whole: bool) -> type[np.number[Any]]:
    """The first of `WHOLE` that holds every value of a range, else float32.

    Args:
        low: Smallest value.
        high: Largest value.
        is_whole: Whether all values are whole numbers; others need floats.
    """
    for kind in INTEGER_TYPES if is_whole else ():
        limits = np.iinfo(kind)
        if limits.min <= low and high <= limits.max:
            return kind
    return np.float32


def write_lossless_image(name: Path, pixels: Array, *, is_color: bool = False) -> Path:
    """Writes an image and returns its file.

    Gray and color of 8 and 16 bits become PNG, everything else TIFF (deflate): negative and
    fractional values, 32 bits, and channels that are no colors.

    Args:
        name: Of the file, without suffix; folders are made.
        pixels: `(height, width)` or `(height, width, channels)` of a type of `WHOLE`
            or float32.
        is_color: Three channels are red, green and blue.

    Raises:
        DataError: If the file cannot be written.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_png = pixels.dtype in (np.uint8, np.uint16) and (pixels.ndim == 2 or is_color)
    # Not `with_suffix`, which would take the end of `1.2.840.113` for one.
    file = name.with_name(f"{name.name}.{'png' if is_png else 'tif'}")
    if is_png:
        write_image(file, pixels)
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        file,
        np.ascontiguousarray(pixels),
        photometric="rgb" if is_color else "minisblack",
        planarconfig="contig" if pixels.ndim == 3 else None,
        compression="zlib",
        compressionargs={"level": 1},  # a fifth of the time of 6, files 2 % larger
    )
    return file


def shrink(pixels: Array, longest_side: int | None) -> Array:
    """`(h, w)` or `(h, w, C)` at most `longest_side` high and wide, averaged by area.

    The type stays; whole numbers are rounded. Smaller images come back as they are.
    """
    height, width = pixels.shape[:2]
    if longest_side is None or max(height, width) <= longest_side:
        return pixels
    scale = longest_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # OpenCV averages neither int32 nor uint32; doubles hold both exactly.
    averaged = cv2.resize(pixels.astype(np.float64), size, interpolation=cv2.INTER_AREA)
    if pixels.dtype.kind in "iu":
        averaged = np.rint(averaged)
    return np.asarray(averaged.astype(pixels.dtype))
