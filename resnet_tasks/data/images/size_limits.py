"""Limits on the declared size of an image and on the number of its parts, checked before decoding.

Decoders spend time on each part of a file, such as a chunk of a PNG or a scan of a JPEG, however
small it is, so that a file of a few megabytes can take minutes.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING

from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    import tifffile
    from PIL import Image

MAX_CHANNELS = 64
"""Maximum number of channels of an image, equal to the limit of `data.channels`."""
MAX_SCANS = 100
"""Maximum number of scans of a JPEG, equal to the limit of libtiff.

Progressive encoders write about 10. A decoder updates all coefficients of the image for each scan.
"""
MAX_SEGMENTS = 1000
"""Maximum number of segments before the pixels of a JPEG: 65 MB of metadata.

A color profile has at most 255.
"""
MAX_STRAY = 1 << 16
"""Maximum number of bytes between the segments before the pixels of a JPEG, which readers skip one
by one."""
MAX_CHUNKS = 1000
"""Maximum number of chunks of a PNG without pixels; editors write fewer than 20."""
MAX_PIXEL_CHUNKS = 250_000
"""Maximum number of chunks of a PNG with pixels: 2 GB, since encoders write at least 8 KiB each."""

JPEG_COMPRESSION = 7
"""Number of JPEG among the compressions of TIFF."""
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_PNG_START = 8
_PNG_PIXELS = (b"IDAT", b"fcTL", b"fdAT")


def refuse_large(path: Path, size: tuple[int, int], channels: int, limit: int) -> None:
    """Reject an image that is too large to be decoded.

    Args:
        path: Path of the image, for the error message.
        size: (height, width), pixels.
        channels: Number of channels.
        limit: Maximum number of pixels.

    Raises:
        DataError: If it has more pixels than allowed, or more channels than `MAX_CHANNELS`.
    """
    height, width = size
    if height * width > limit:
        raise DataError(
            f"{path} has {width} x {height} pixels, more than the limit of {limit:,}; cut it into "
            f"several files, or raise data.max_pixels (predict: --max-pixels {height * width})"
        )
    if channels > MAX_CHANNELS:
        raise DataError(
            f"{path} has {channels} channels of {width} x {height} (width x height), more than the "
            f"limit of {MAX_CHANNELS}; the channel axis must be the last one, and volumes must be "
            "stored as slices"
        )


def refuse_large_tiles(path: Path, tiff: tifffile.TiffFile, limit: int) -> None:
    """Reject a TIFF whose tiles have more pixels than an image may have.

    A tile is decoded as a unit, even if the image covers only a corner of it.

    Args:
        path: Path of the image, for the error message.
        tiff: Opened TIFF file.
        limit: Maximum number of pixels.

    Raises:
        DataError: If a tile has more pixels than the limit.
    """
    page = tiff.pages.first
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > limit:
        raise DataError(
            f"{path} has tiles of {page.tilewidth} x {page.tilelength} pixels (width x height), "
            f"more than the limit of {limit:,}; store it with tiles of 256 x 256"
        )


def check_jpeg_header(num_segments: int, num_stray: int) -> None:
    """Check the number of parts before the pixels of a JPEG.

    Args:
        num_segments: Number of segments so far.
        num_stray: Number of bytes between them so far.

    Raises:
        OSError: If it exceeds `MAX_SEGMENTS` or `MAX_STRAY`.
    """
    if num_segments > MAX_SEGMENTS:
        raise OSError(
            f"it is a JPEG of more than {MAX_SEGMENTS:,} segments before its pixels, the limit; "
            "remove its metadata"
        )
    if num_stray > MAX_STRAY:
        raise OSError(
            f"it is a JPEG with more than {MAX_STRAY:,} bytes between its segments, the limit; "
            "store it again with an image editor"
        )


def check_scans(image: Image.Image, stream: IO[bytes] | None = None) -> None:
    """Check the number of scans of a JPEG; see `check_jpeg_scans`.

    Args:
        image: Opened image; with another format, nothing is read.
        stream: File of the image; its position is restored. None: `image.fp`.
    """
    stream = stream or getattr(image, "fp", None)
    if image.format in ("JPEG", "MPO") and stream is not None:
        place = stream.tell()
        stream.seek(0)
        check_jpeg_scans(stream.read())
        stream.seek(place)


def check_jpeg_scans(content: bytes) -> None:
    """Check that a JPEG does not have more scans than `MAX_SCANS`.

    Args:
        content: JPEG file, or strip or tile of a TIFF.

    Raises:
        OSError: If it has more.
    """
    # Thumbnails and further images of the file have scans too, so that this is an upper limit.
    if content.count(bytes((0xFF, _JPEG_SCAN))) > MAX_SCANS and _has_many_scans(content):
        raise OSError(
            f"it is a JPEG of more than {MAX_SCANS} scans, the limit; store it again with an image "
            "editor, which writes about 10"
        )


def _has_many_scans(content: bytes) -> bool:
    """Return whether the first image in a JPEG file has more scans than `MAX_SCANS`.

    More than `MAX_SEGMENTS` segments between the scans count as many scans, too.
    """
    num_scans = num_segments = 0
    position = 2
    while (marker := _JPEG_MARKER.search(content, position)) is not None:
        code = marker[0][1]
        num_scans += code == _JPEG_SCAN
        num_segments += 1
        if code == _JPEG_END or num_scans > MAX_SCANS or num_segments > 3 * MAX_SEGMENTS:
            break
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return num_scans > MAX_SCANS or num_segments > 3 * MAX_SEGMENTS


def check_tiff_scans(tiff: tifffile.TiffFile) -> None:
    """Check the number of scans of each strip or tile with JPEG compression; others are not read.

    Raises:
        OSError: If one has more than `MAX_SCANS`.
    """
    for page in (entry.aspage() for entry in tiff.pages):
        if int(page.compression) == JPEG_COMPRESSION:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
                tiff.filehandle.seek(offset)
                check_jpeg_scans(tiff.filehandle.read(count))


def check_png_chunks(stream: IO[bytes]) -> None:
    """Check that a PNG does not have more chunks than `MAX_CHUNKS` and `MAX_PIXEL_CHUNKS`.

    Args:
        stream: PNG file; its position is restored.

    Raises:
        OSError: If it has more.
    """
    place = stream.tell()
    length = stream.seek(0, io.SEEK_END)
    num_pixel_chunks = num_others = 0
    position = _PNG_START
    # A chunk has 12 bytes or more.
    while position < length and length > 12 * MAX_CHUNKS:
        stream.seek(position)
        header = stream.read(8)
        num_pixel_chunks += header[4:] in _PNG_PIXELS
        num_others += header[4:] not in _PNG_PIXELS
        if num_others > MAX_CHUNKS or num_pixel_chunks > MAX_PIXEL_CHUNKS:
            raise OSError(
                f"it is a PNG of more than {MAX_PIXEL_CHUNKS:,} chunks of pixels or "
                f"{MAX_CHUNKS:,} others, the limit; store it again with an image editor"
            )
        position += 12 + int.from_bytes(header[:4], "big")
    stream.seek(place, os.SEEK_SET)
