"""Conversion of gray frames to the requested values: stored, modality, VOI or a window.

The order of steps is that of the standard (PS3.3, C.11 and C.12; PS3.4, N.2): stored value ->
modality LUT or rescale -> VOI LUT or window -> inversion for MONOCHROME1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from data_tools.converters.dicom.options import Values
from data_tools.writing.lossless_images import choose_smallest_dtype
from resnet_tasks.errors import DataError

Array = NDArray[Any]


class _Range(NamedTuple):
    """Range of values that a frame can hold."""

    low: float
    high: float


def convert_gray(
    stored_values: Array, header: pydicom.Dataset, value_kind: Values, path: Path
) -> Array:
    """Convert a gray frame to the requested values, with white as the highest value.

    Args:
        stored_values: (height, width) values as stored.
        header: Elements that apply to the frame.
        value_kind: Requested values; see `DicomOptions`.
        path: File of the frame, for error messages.

    Returns:
        (height, width): uint16 for `voi` and windows, else the smallest type that fits.

    Raises:
        DataError: If `voi` is requested and the file has neither a window nor a VOI LUT.
    """
    is_inverted = header.PhotometricInterpretation == "MONOCHROME1"
    limits = _compute_stored_range(stored_values, header)
    if value_kind == "stored":
        return _narrow(stored_values, limits, is_inverted=is_inverted)
    values = apply_modality_lut(stored_values, header)
    limits = _compute_modality_range(limits, header)
    if value_kind == "modality":
        return _narrow(values, limits, is_inverted=is_inverted)
    if value_kind == "voi":
        fraction = _apply_voi(values, limits, header, path)
    else:
        level, width = value_kind
        fraction = (values.astype(np.float64) - (level - width / 2)) / width
    fraction = np.clip(fraction, 0, 1)
    return np.rint(65535 * (1 - fraction if is_inverted else fraction)).astype(np.uint16)


def _apply_voi(
    values: Array, limits: _Range, header: pydicom.Dataset, path: Path
) -> NDArray[np.float64]:
    """Return fractions of the output range after the first VOI LUT, else after the first window."""
    if header.get("VOILUTSequence", None):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        integer_values = np.rint(values).astype(np.int64)
        return np.asarray(apply_voi_lut(integer_values, header) / (2**bits - 1))
    if header.get("WindowCenter", None) is None or header.get("WindowWidth", None) is None:
        raise DataError(
            f"{path} states no window and no VOI LUT; choose values=modality, or a window "
            "such as values=[40,400]"
        )
    windowed = apply_voi_lut(values, header)  # pydicom scales the output to `limits`
    return np.asarray((windowed - limits.low) / (limits.high - limits.low))


def _compute_stored_range(stored_values: Array, header: pydicom.Dataset) -> _Range:
    if stored_values.dtype.kind == "f":
        return _Range(float(stored_values.min()), float(stored_values.max()))
    bits = int(header.BitsStored)
    if stored_values.dtype.kind == "i":
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
        raise ValueError("the rescale slope is 0, which makes all pixels equal")
    return _Range(*(float(slope) * value + float(intercept) for value in stored_range))


def _narrow(values: Array, limits: _Range, *, is_inverted: bool) -> Array:
    """Cast values to the smallest type that holds the range of the file, inverted or not."""
    low, high = min(limits), max(limits)
    if is_inverted:
        # In float64, because the sum of the limits may not fit the integer type.
        values = (low + high) - values.astype(np.float64)
    is_whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    kind = choose_smallest_dtype(low, high, is_whole=is_whole)
    if is_whole and np.dtype(kind).itemsize > 2:
        # 16 stored bits with an offset exceed 16 bits slightly, but actual values hardly ever do:
        # use the actual range. Keep the type signed, so that all files of a series agree.
        lowest = float(values.min())
        lowest = min(lowest, -1.0) if low < 0 else lowest
        kind = choose_smallest_dtype(lowest, float(values.max()), is_whole=True)
    return values.astype(kind)
