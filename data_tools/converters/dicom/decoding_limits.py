"""Limits on DICOM files, checked before memory or minutes are spent on a small file.

pydicom inflates a deflated file completely, reads all elements, and decodes a compressed frame
regardless of the size that the header states.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import IO

import pydicom
from pydicom.encaps import get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGTransferSyntaxes, RLELossless

from data_tools.converters.dicom.pydicom_errors import HeaderError
from resnet_tasks.data.images.declared_sizes import check_file_length, measure_declared_size
from resnet_tasks.data.images.decoding import MAX_PIXELS
from resnet_tasks.data.images.size_limits import check_jpeg_scans
from resnet_tasks.number_formats import format_bytes

MAX_ELEMENTS = 20_000
"""Maximum number of elements outside of sequences; the standard defines about 5,000."""
MAX_INFLATION = 200
"""Maximum size of a deflated file when inflated, as a multiple of its size."""
SLACK = 64 << 20
"""Inflated bytes up to which `MAX_INFLATION` does not apply."""
_RLE_RATIO = 64
"""Maximum number of bytes to which one byte of an RLE segment expands: 128 bytes per 2 bytes."""
_CHUNK = 1 << 20
_PREFIX = 132  # bytes: preamble and magic
_START_OF_META = b"\x02\0"
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG_VRS = (b"OB", b"OW", b"UN", b"UT", b"SQ", b"UC", b"UR")


def make_element_limit(
    *, stop_before_pixels: bool
) -> Callable[[pydicom.tag.BaseTag, str | None, int], bool]:
    """Return a function that pydicom calls before each element, and that returns whether to stop.

    It raises `HeaderError` if there are more elements than `MAX_ELEMENTS`.
    """
    num_elements = 0

    def is_end(tag: pydicom.tag.BaseTag, representation: str | None, length: int) -> bool:
        del representation, length
        nonlocal num_elements
        num_elements += 1
        if num_elements > MAX_ELEMENTS:
            raise HeaderError(f"it has more than {MAX_ELEMENTS:,} elements, the limit")
        return stop_before_pixels and tag in _PIXEL_TAGS

    return is_end


def check_inflation(stream: IO[bytes]) -> None:
    """Check that a file with the deflated transfer syntax does not grow beyond the limits.

    Args:
        stream: DICOM file, with or without preamble, at its start; its position is restored.

    Raises:
        HeaderError: If it grows beyond `MAX_INFLATION` times its size and `SLACK`.
    """
    place = stream.tell()
    try:
        if not _skip_deflated_meta(stream):
            return
        packed = stream.seek(0, io.SEEK_CUR)
        size = stream.seek(0, io.SEEK_END)
        stream.seek(packed)
        limit = max(SLACK, MAX_INFLATION * size)
        decoder, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not decoder.eof and (chunk := decoder.unconsumed_tail or stream.read(_CHUNK)):
            total += len(decoder.decompress(chunk, _CHUNK))
            if total > limit:
                raise HeaderError(
                    f"its {format_bytes(size)} of deflated data grow beyond {format_bytes(limit)}, "
                    "the limit"
                )
    except (struct.error, zlib.error):
        pass  # the reader reports the damage
    finally:
        stream.seek(place)


def _skip_deflated_meta(stream: IO[bytes]) -> bool:
    """Skip the file meta information; return whether it states the deflated transfer syntax."""
    head = stream.read(_PREFIX)
    if not head.endswith(b"DICM"):
        stream.seek(-len(head), io.SEEK_CUR)
    is_deflated = False
    while (tag := stream.read(8))[:2] == _START_OF_META:
        length = struct.unpack("<H", tag[6:])[0]
        if tag[4:6] in _LONG_VRS:
            (length,) = struct.unpack("<I", stream.read(4))
        if tag[2:4] == b"\x10\0":
            name = stream.read(length)[:64]
            is_deflated = name.rstrip(b"\0 ") == DeflatedExplicitVRLittleEndian.encode()
        else:
            stream.seek(length, io.SEEK_CUR)
    stream.seek(-len(tag), io.SEEK_CUR)
    return is_deflated


def check_frame(dataset: pydicom.Dataset, index: int) -> None:
    """Check that a compressed frame has the size that the header states, before it is decoded.

    Frames in JPEG and RLE are checked.

    Args:
        dataset: DICOM file with its pixels.
        index: Index of the frame, from 0.

    Raises:
        HeaderError: If it has another size, too many pixels, or too little data.
        OSError: If it is a JPEG of too many scans, or too short for its size.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in JPEGTransferSyntaxes and syntax != RLELossless:
        return
    size = (int(dataset.Rows), int(dataset.Columns))
    number = int(dataset.get("NumberOfFrames", None) or 1)
    frame = get_frame(dataset.PixelData, index, number_of_frames=number)
    if syntax == RLELossless:
        values = math.prod(size) * int(dataset.SamplesPerPixel)
        if values * int(dataset.BitsAllocated) // 8 > _RLE_RATIO * len(frame):
            raise HeaderError(f"frame {index} is too short for the size that the header states")
        return
    stream = io.BytesIO(frame)
    declared = measure_declared_size(stream, frame[:32], "JPEG", None)
    if declared is None:
        return  # the decoder reports the damage
    if declared.size != size:
        raise HeaderError(
            f"frame {index} is a JPEG of {declared.size[1]} x {declared.size[0]} pixels (width x "
            "height), which are not the Columns and Rows of the header"
        )
    if math.prod(size) > MAX_PIXELS:
        raise HeaderError(f"frame {index} has more than {MAX_PIXELS:,} pixels, the limit")
    check_file_length(stream, declared)
    check_jpeg_scans(frame)
