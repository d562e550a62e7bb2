"""Repairs of faults in DICOM headers whose meaning is unambiguous.

Each function changes a header in memory and returns a description of the repair, or None if the
header needs none. `DicomFile` collects the descriptions, and the data card counts them.
"""

from __future__ import annotations

import math

import pydicom
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from data_tools.converters.dicom.pydicom_errors import HeaderError

_RESCALE_DEFAULTS = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
_START_OF_IMAGE = (b"\xff\xd8", b"\xff\x4f\xff\x51")
"""First bytes of JPEG, JPEG-LS and JPEG 2000 images."""


def repair_rescale(header: pydicom.Dataset) -> str | None:
    """Replace a missing or empty slope by 1 and a missing or empty intercept by 0.

    Raises:
        HeaderError: If a value is not a finite number, or if there are several.
    """
    values = {name: read_number(header, name) for name in _RESCALE_DEFAULTS}
    for name in values:
        if name in header:
            del header[name]
    if all(value is None for value in values.values()):
        return None
    missing = None
    for name, default in _RESCALE_DEFAULTS.items():
        value = values[name]
        if value is None:
            missing = f"{name} is missing or empty and was taken as {default:g}"
        # Assign the complete elements, because the file's header shares its elements.
        setattr(header, name, default if value is None else value)
    return missing


def repair_windows(header: pydicom.Dataset) -> None:
    """Replace windows with decimal commas by numbers, and remove empty ones.

    Raises:
        HeaderError: If a value is not a finite number.
    """
    for keyword in ("WindowCenter", "WindowWidth"):
        numbers = read_numbers(header, keyword)
        if keyword in header:
            del header[keyword]
        if numbers:
            setattr(header, keyword, list(numbers))


def read_number(header: pydicom.Dataset, keyword: str) -> float | None:
    """Return the value of an element, with a point or comma as decimal mark.

    Returns:
        Number; None if the element is missing or empty.

    Raises:
        HeaderError: If the value is not a finite number, or if there are several different values.
    """
    numbers = set(read_numbers(header, keyword))
    if len(numbers) > 1:
        raise HeaderError(
            f"{keyword} has {len(numbers)} different values, but must have one; fix the file"
        )
    return next(iter(numbers), None)


def read_numbers(header: pydicom.Dataset, keyword: str) -> tuple[float, ...]:
    """Return all values of an element, with points or commas as decimal marks.

    Raises:
        HeaderError: If a value is not a finite number.
    """
    value = header.get(keyword, None)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str | int | float) else list(value)
    try:
        numbers = tuple(
            float(part.strip().replace(",", ".")) if isinstance(part, str) else float(part)
            for part in values
        )
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise HeaderError(f"{keyword} must be a number and is none: fix or remove it")
    return numbers


def repair_transfer_syntax(dataset: pydicom.Dataset) -> str | None:
    """State the transfer syntax with which pydicom parsed the elements, if the file states none.

    The parser finds out the encoding of the elements. Compressed pixels stay unknown: see
    `DicomFile`.
    """
    if dataset.file_meta.get("TransferSyntaxUID", None):
        return None
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit is None or is_little_endian is None:
        return None
    explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return "the transfer syntax is missing and was derived from the encoding of the header"


def repair_number_of_frames(dataset: pydicom.Dataset) -> str | None:
    """Raise NumberOfFrames to the number of frames that the pixel data hold."""
    if "PixelData" not in dataset:
        return None
    stated = int(dataset.get("NumberOfFrames", None) or 1)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        stored = _count_encapsulated_frames(dataset)
    else:
        stored = _count_native_frames(dataset, stated)
    if stored <= stated:
        return None
    dataset.NumberOfFrames = stored
    return "NumberOfFrames is smaller than the number of stored frames, and all were converted"


def _count_native_frames(dataset: pydicom.Dataset, stated: int) -> int:
    expected = get_expected_length(dataset)
    frame_length = expected // stated
    # Pixel data of an odd length end with one byte of padding.
    surplus = len(dataset.PixelData) - (expected + expected % 2)
    if frame_length < 1 or int(dataset.BitsAllocated) < 8:
        return stated
    return stated + max(0, surplus // frame_length)


def _count_encapsulated_frames(dataset: pydicom.Dataset) -> int:
    if offsets := parse_basic_offsets(dataset.PixelData):
        return len(offsets)
    if extended := dataset.get("ExtendedOffsetTable", None):
        return len(extended) // 8
    _, positions = parse_fragments(dataset.PixelData)
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        return len(positions) - 1  # the offset table, and exactly one fragment per frame
    # A frame may span several fragments, of which only the first starts an image.
    return sum(
        dataset.PixelData[position + 8 : position + 12].startswith(_START_OF_IMAGE)
        for position in positions
    )
