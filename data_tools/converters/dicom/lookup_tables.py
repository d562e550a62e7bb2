"""Lookup tables of DICOM files, applied with entries of any depth and packing.

pydicom expects entries of 8 or 16 bits that are stored as 16-bit words. Its VOI tables of 8 bits
also wrap indices beyond 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from data_tools.converters.dicom.pydicom_errors import HeaderError

Array = NDArray[Any]

_MAX_ENTRIES = 1 << 16
"""Number of entries that a descriptor states as 0, because it does not fit 16 bits."""


def apply_lookup_table(values: Array, table: pydicom.Dataset, *, is_little_endian: bool) -> Array:
    """Map values through a table; values outside of it get its first or last entry.

    Args:
        values: Whole numbers of any shape.
        table: Item of a modality or VOI LUT sequence.
        is_little_endian: Byte order of the file.

    Raises:
        HeaderError: If the table has fewer entries than its descriptor states.
    """
    descriptor = [int(number) for number in table.LUTDescriptor]
    num_entries, first_value = descriptor[0] or _MAX_ENTRIES, descriptor[1]
    if first_value > np.iinfo(np.int16).max and values.min(initial=0) < 0:
        first_value -= _MAX_ENTRIES  # a negative number that was read as unsigned
    entries = _read_entries(table, num_entries, is_little_endian=is_little_endian)
    indices = np.clip(values.astype(np.int64) - first_value, 0, num_entries - 1)
    return entries[indices]


def _read_entries(table: pydicom.Dataset, num_entries: int, *, is_little_endian: bool) -> Array:
    """Return the entries as uint8 or uint16; two entries of 8 bits may share a word."""
    word = np.dtype("<u2" if is_little_endian else ">u2")
    content = table.LUTData
    if not isinstance(content, bytes):
        numbers = [content] if isinstance(content, int) else list(content)
        content = np.array(numbers, dtype=word).tobytes()
    if len(content) >= num_entries * word.itemsize:
        return np.frombuffer(content, word, num_entries).astype(np.uint16)
    if len(content) < num_entries or int(table.LUTDescriptor[2]) > 8:
        raise HeaderError(
            f"the lookup table has {len(content)} bytes, too few for its {num_entries} entries"
        )
    return np.frombuffer(content, np.uint8, num_entries)
