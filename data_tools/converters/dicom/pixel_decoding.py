"""Pixel decoding of frames: transfer syntaxes, photometric interpretations and stored bits.

Colors (RGB, YBR, palettes) become RGB; no window is applied to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from data_tools.converters.dicom.pydicom_errors import format_uid
from resnet_tasks.errors import DataError, format_error

Array = NDArray[Any]

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
PACKAGES = {
    "pyjpegls": ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
    "pylibjpeg pylibjpeg-openjpeg": (
        *("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
        *("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"),
    ),
    "python-gdcm": (
        *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"),
        *("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    ),
}
"""Package -> transfer syntaxes that it decodes and Pillow does not; all licenses are permissive."""


def require_decoder(header: pydicom.Dataset, path: Path) -> None:
    """Check that the transfer syntax of a file can be decoded here.

    Raises:
        DataError: If the file states no transfer syntax, or its decoder is not installed.
    """
    syntax = header.file_meta.get("TransferSyntaxUID", None)
    if syntax is None:
        raise DataError(f"{path} does not state its transfer syntax; repair the file")
    try:
        is_decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        is_decodable = False
    if not is_decodable:
        raise DataError(f"{path} is stored as {format_uid(syntax)}; {_suggest_remedy(syntax)}")


def count_unused_bits(header: pydicom.Dataset, path: Path) -> int:
    """Return the number of unused bits below the stored ones.

    Raises:
        DataError: If the photometric interpretation is unknown, or the bits contradict each other.
    """
    interpretation = str(header.get("PhotometricInterpretation", ""))
    if interpretation not in (*MONOCHROME, *COLORS, PALETTE):
        raise DataError(
            f"{path} has an unknown photometric interpretation; supported are "
            f"{', '.join((*MONOCHROME, *COLORS, PALETTE))}"
        )
    bits_allocated = int(header.get("BitsAllocated", 0))
    bits_stored = int(header.get("BitsStored", bits_allocated))  # absent for float pixels
    unused = int(header.get("HighBit", bits_stored - 1)) - (bits_stored - 1)
    is_encapsulated = header.file_meta.TransferSyntaxUID.is_encapsulated
    if not 0 < bits_stored <= unused + bits_stored <= bits_allocated or (
        unused and is_encapsulated
    ):
        raise DataError(
            f"{path}: BitsAllocated, BitsStored and HighBit contradict each other; repair the file"
        )
    return unused


def decode_frame(dataset: pydicom.Dataset, path: Path, index: int, unused: int) -> Array:
    """Decode a frame to (h, w) gray or (h, w, 3) RGB, as stored, in native byte order.

    Args:
        dataset: DICOM file with its pixels.
        path: Path of the file, for error messages.
        index: Index of the frame, from 0.
        unused: Number of unused bits below the stored ones; see `count_unused_bits`.

    Raises:
        DataError: If a compressed frame cannot be decoded.
    """
    # pydicom masks the bits above the stored ones and assumes that these start at bit 0.
    options: dict[str, Any] = {"bits_stored": unused + int(dataset.BitsStored)} if unused else {}
    try:
        frame = pixel_array(dataset, index=index, **options)
    except RuntimeError as error:
        syntax = dataset.file_meta.TransferSyntaxUID
        if not syntax.is_encapsulated:
            raise
        raise DataError(
            f"{path}: the pixels, stored as {format_uid(syntax)}, cannot be decoded "
            f"({format_error(error)}); if the file is intact, {_suggest_remedy(syntax)}"
        ) from None
    native = frame.astype(frame.dtype.newbyteorder("="), copy=False)
    native = native >> unused if unused else native  # float arrays reject any shift
    if dataset.PhotometricInterpretation == PALETTE:
        return apply_color_lut(native, dataset)
    return native


def _suggest_remedy(syntax: UID) -> str:
    packages = [name for name, syntaxes in PACKAGES.items() if syntax in syntaxes]
    if packages:
        return f"`pip install {packages[0]}` lets pydicom decode it"
    return "store it uncompressed"
