"""Padding of gray frames: pixels outside the field of view, which hold no measurement.

PS3.3, C.7.5.1.1.2: the padding value, or the range from it to the range limit, fills the area
around an image and takes no part in its contrast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from data_tools.converters.dicom.header_repairs import read_number

Array = NDArray[Any]

REPORT = "pixels with the padding value were given the darkest other value of their image"

_KEYWORDS = {
    "": ("PixelPaddingValue", "PixelPaddingRangeLimit"),
    "float32": ("FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit"),
    "float64": ("DoubleFloatPixelPaddingValue", "DoubleFloatPixelPaddingRangeLimit"),
}


def find_padding(dataset: pydicom.Dataset, index: int, frame: Array) -> NDArray[np.bool_] | None:
    """Return which pixels of a gray frame hold the padding value.

    Args:
        dataset: DICOM file with its pixels.
        index: Index of the frame, from 0.
        frame: (height, width) stored values of the frame.

    Returns:
        (height, width) bool; None if the file states no padding value or no pixel holds it.
    """
    is_float = frame.dtype.kind == "f"
    value_keyword, limit_keyword = _KEYWORDS[frame.dtype.name if is_float else ""]
    if is_float and math.isnan(dataset.get(value_keyword, None) or 0.0):
        is_padding = np.isnan(frame)
        return is_padding if is_padding.any() else None
    value, limit = read_number(dataset, value_keyword), read_number(dataset, limit_keyword)
    if value is None:
        return None
    values = [value, value if limit is None else limit]
    if not is_float:
        values = [_wrap(v, int(dataset.BitsAllocated), frame.dtype.kind) for v in values]
        frame = _choose_words(dataset, index, frame, values)
    is_padding = (frame >= min(values)) & (frame <= max(values))
    return is_padding if is_padding.any() else None


def fill_padding(
    stored_values: Array, is_padding: NDArray[np.bool_], *, is_dark_high: bool, fallback: int
) -> Array:
    """Return the frame with the darkest other value at the padding.

    Args:
        stored_values: (height, width) values as stored.
        is_padding: (height, width) bool.
        is_dark_high: Whether higher stored values are darker.
        fallback: Value for a frame that consists of padding only.
    """
    others = stored_values[~is_padding]
    darkest = (others.max() if is_dark_high else others.min()) if others.size else fallback
    return np.where(is_padding, np.asarray(darkest, dtype=stored_values.dtype), stored_values)


def _wrap(value: float, bits: int, kind: str) -> float:
    """Return an integer as signed or unsigned like the pixels: 63536 and -2000 are equal words."""
    word = int(value) % (1 << bits)
    return word - (1 << bits) if kind == "i" and word >= 1 << (bits - 1) else word


def _choose_words(dataset: pydicom.Dataset, index: int, frame: Array, values: list[float]) -> Array:
    """Return the frame, or its complete words if the padding value lies outside the stored bits.

    A scanner may store 12 bits and pad with -2000, which the mask of 12 bits turns into 2096.
    """
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    is_native = not dataset.file_meta.TransferSyntaxUID.is_encapsulated
    is_shifted = int(dataset.get("HighBit", bits - 1)) != bits - 1
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if frame.dtype.kind == "i" else (0, 1 << bits)
    is_inside = all(low <= value < high for value in values)
    if is_native and bits < allocated and (is_shifted or not is_inside):
        return np.asarray(pixel_array(dataset, index=index, bits_stored=allocated))
    return frame
