"""Conversion of gray frames to the requested values: stored, modality, VOI or a window.

The order of steps is that of the standard (PS3.3, C.11 and C.12; PS3.4, N.2): stored value ->
modality LUT or rescale -> VOI LUT or window -> inversion for MONOCHROME1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from data_tools.converters.dicom.header_repairs import repair_windows
from data_tools.converters.dicom.lookup_tables import apply_lookup_table
from data_tools.converters.dicom.options import Values
from data_tools.converters.dicom.pydicom_errors import HeaderError
from data_tools.writing.value_types import (
    ValueRange,
    ValueType,
    choose_dataset_dtype,
    widen_dtype,
)
from resnet_tasks.errors import DataError

Array = NDArray[Any]


class _Range(NamedTuple):
    """Range of values that a frame can hold."""

    low: float
    high: float


def read_gray_range(header: pydicom.Dataset, value_kind: Values) -> ValueRange | None:
    """Return the range of the requested values that the header of a frame allows.

    Args:
        header: Elements that apply to the frame, with a complete rescale.
        value_kind: Requested values; see `DicomOptions`.

    Returns:
        Range; None for values whose type is always uint16: `voi` and windows.

    Raises:
        HeaderError: If the slope is 0.
    """
    if value_kind not in ("stored", "modality"):
        return None
    if header.get("BitsStored", None) is None:  # float pixels
        return ValueRange(-math.inf, math.inf, is_whole=False)
    limits = _compute_stored_range(header, is_signed=bool(header.get("PixelRepresentation", 0)))
    is_whole = True
    if value_kind == "modality":
        limits = _compute_modality_range(limits, header)
        rescale = (header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0))
        is_whole = bool(header.get("ModalityLUTSequence", None)) or all(
            float(number).is_integer() for number in rescale
        )
    return ValueRange(min(limits), max(limits), is_whole=is_whole)


def convert_gray(
    stored_values: Array,
    header: pydicom.Dataset,
    value_kind: Values,
    path: Path,
    dtype: ValueType | None = None,
) -> Array:
    """Convert a gray frame to the requested values, with white as the highest value.

    Args:
        stored_values: (height, width) values as stored.
        header: Elements that apply to the frame.
        value_kind: Requested values; see `DicomOptions`.
        path: File of the frame, for error messages.
        dtype: Type of the images of the dataset; None: from the header of this frame.

    Returns:
        (height, width): uint16 for `voi` and windows, else `dtype`, or a wider type for values
        beyond it.

    Raises:
        DataError: If `voi` is requested and the file has neither a window nor a VOI LUT.
    """
    is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
    if stored_values.dtype.kind == "f":
        limits = _Range(float(stored_values.min()), float(stored_values.max()))
    else:
        limits = _compute_stored_range(header, is_signed=stored_values.dtype.kind == "i")
    if dtype is None and (value_range := read_gray_range(header, value_kind)) is not None:
        dtype = choose_dataset_dtype([value_range])
    if value_kind == "stored":
        return _convert_type(stored_values, limits, dtype, is_inverted=is_inverted)
    values = _apply_modality(stored_values, header)
    limits = _compute_modality_range(limits, header)
    if value_kind == "modality":
        return _convert_type(values, limits, dtype, is_inverted=is_inverted)
    if value_kind == "voi":
        fraction = _apply_voi(values, limits, header, path)
    else:
        level, width = value_kind
        fraction = (values.astype(np.float64) - (level - width / 2)) / width
    fraction = np.clip(fraction, 0, 1)
    return np.rint(65535 * (1 - fraction if is_inverted else fraction)).astype(np.uint16)


def _apply_modality(stored_values: Array, header: pydicom.Dataset) -> Array:
    """Return the values after the modality LUT, else after the rescale, if there is either."""
    if header.get("ModalityLUTSequence", None):
        return _apply_table(stored_values, header, header.ModalityLUTSequence[0])
    return np.asarray(apply_modality_lut(stored_values, header))


def _apply_table(values: Array, header: pydicom.Dataset, table: pydicom.Dataset) -> Array:
    is_little_endian = header.file_meta.TransferSyntaxUID.is_little_endian
    return apply_lookup_table(values, table, is_little_endian=is_little_endian)


def _apply_voi(
    values: Array, limits: _Range, header: pydicom.Dataset, path: Path
) -> NDArray[np.float64]:
    """Return fractions of the output range after the first VOI LUT, else after the first window."""
    if header.get("VOILUTSequence", None):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        integer_values = np.rint(values).astype(np.int64)
        return np.asarray(
            _apply_table(integer_values, header, header.VOILUTSequence[0]) / (2**bits - 1)
        )
    repair_windows(header)
    if "WindowCenter" not in header or "WindowWidth" not in header:
        raise DataError(
            f"{path} states no window and no VOI LUT; choose values=modality, or a window "
            "such as values=[40,400]"
        )
    windowed = apply_voi_lut(values, header)  # pydicom scales the output to `limits`
    return np.asarray((windowed - limits.low) / (limits.high - limits.low))


def _compute_stored_range(header: pydicom.Dataset, *, is_signed: bool) -> _Range:
    bits = int(header.BitsStored)
    if is_signed:
        return _Range(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return _Range(0, 2.0**bits - 1)


def _compute_modality_range(stored_range: _Range, header: pydicom.Dataset) -> _Range:
    """Map the range of stored values through the modality LUT or the rescale."""
    if header.get("ModalityLUTSequence", None):
        return _Range(0, 2.0 ** int(header.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    slope, intercept = header.get("RescaleSlope", None), header.get("RescaleIntercept", None)
    if slope is None or intercept is None:
        return stored_range
    if not float(slope):
        raise HeaderError(
            "the rescale slope is 0, which makes all pixels equal; fix the file, or choose "
            "values=stored"
        )
    return _Range(*(float(slope) * value + float(intercept) for value in stored_range))


def _convert_type(
    values: Array, limits: _Range, dtype: ValueType | None, *, is_inverted: bool
) -> Array:
    """Cast values to the type of the dataset, inverted or not."""
    assert dtype is not None
    if is_inverted:
        # In float64, because the sum of the limits may not fit the integer type.
        values = sum(limits) - values.astype(np.float64)
    return values.astype(widen_dtype(dtype, float(values.min()), float(values.max())))
