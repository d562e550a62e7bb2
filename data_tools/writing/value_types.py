"""Types of gray values: one type for all images of a dataset, chosen from the headers of its files.

A type that followed the content of each file would give equal values different meanings: the
network divides 8-bit images by 255 and 16-bit images by 65535.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from resnet_tasks.number_formats import Count

INTEGER_TYPES: tuple[type[np.integer[Any]], ...] = (
    *(np.uint8, np.uint16, np.int16),
    *(np.uint32, np.int32),
)
"""Integer types of images, in ascending order of size."""
ValueType = type[np.number[Any]]


class ValueRange(NamedTuple):
    """Range of values that the header of a file allows.

    Attributes:
        low: Smallest possible value.
        high: Largest possible value.
        is_whole: Whether all values are integers; others need floats.
    """

    low: float
    high: float
    is_whole: bool


def describe_mixed_depths(files_by_bits: Mapping[int, int], alternative: str = "") -> str:
    """Return a warning with the number of files of every bit depth and the intensity step to use.

    Args:
        files_by_bits: Bits per value -> number of files.
        alternative: Other remedy, which follows the first one.
    """
    counts = ", ".join(
        f"{Count(files):file} of {Count(bits):bit}" for bits, files in sorted(files_by_bits.items())
    )
    return (
        f"files of different bit depths ({counts}) may have values of different scales, such as "
        f"200 of 255 and 3200 of 4095; use data.intensity.type=percentile{alternative}"
    )


def choose_dataset_dtype(ranges: Iterable[ValueRange]) -> ValueType:
    """Return the type of all images of a dataset: float32, int16, uint8 or uint16.

    Args:
        ranges: Ranges of all files. An offset or 32 bits may exceed 16 bits, but actual values
            hardly ever do; `widen_dtype` handles the images whose values do.
    """
    all_ranges = list(ranges)
    if not all(value_range.is_whole for value_range in all_ranges):
        return np.float32
    if any(value_range.low < 0 for value_range in all_ranges):
        return np.int16
    is_byte = all(value_range.high <= np.iinfo(np.uint8).max for value_range in all_ranges)
    return np.uint8 if is_byte else np.uint16


def widen_dtype(dtype: ValueType, low: float, high: float) -> ValueType:
    """Return a type, or the next larger one of the same sign that holds the values of an image.

    Types of more than 16 bits have no known range, so that a wider type never changes the meaning
    of values without an error: such a dataset needs a window or percentiles.

    Args:
        dtype: Type of the dataset.
        low: Smallest value of the image.
        high: Largest value of the image.
    """
    for kind in INTEGER_TYPES:
        limits = np.iinfo(kind)
        is_candidate = np.dtype(kind).kind == np.dtype(dtype).kind
        is_large_enough = np.dtype(kind).itemsize >= np.dtype(dtype).itemsize
        if is_candidate and is_large_enough and limits.min <= low and high <= limits.max:
            return kind
    return np.float32
