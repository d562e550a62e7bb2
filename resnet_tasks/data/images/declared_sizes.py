"""Check that files are long enough for the pixels that their headers declare.

Decoders allocate memory for the declared size before they decode, so that a file of 54 bytes can
require 185 MB. The minimum file size is the theoretical limit of each coding, which a blank image
may reach, and not the compression ratio of typical encoders.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, NamedTuple

from resnet_tasks.data.images.size_limits import MAX_STRAY, check_jpeg_header

DEFLATE_RATIO = 1032
"""Maximum number of bytes to which one byte of deflate data expands: 258 bytes per 2 bits."""
WORTH_CHECKING = 1 << 24
"""Number of declared bytes above which a file is checked; smaller images are harmless."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# A block of 8 x 8 pixels takes at least one bit in the first scan of Huffman coding. The factor 2
# allows for components that are subsampled (at most 4 to 1 in each direction).
_JPEG_HUFFMAN = 8 * 64 * 2  # pixels per byte
_JPEG_ARITHMETIC = _JPEG_HUFFMAN * 256  # a symbol may take far less than one bit
_JPEG_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_JPEG_FIRST_ARITHMETIC = 0xC9
_JPEG_BARE = (0x00, 0x01, *range(0xD0, 0xD9), 0xFF)  # markers without a length, or no marker at all
_JPEG_SCAN = 0xDA
MAX_PAGES = 1000
"""Maximum number of pages of a TIFF: the 64 channels of an image with masks and overviews."""

_BMP_RLE, _BMP_PLAIN = (1, 2), (0, 3, 6)
_BMP_JUMP = 255 * 255 // 4  # maximum number of pixels that one byte of a run-length delta skips

_PLAIN, _CCITT, _WEBP = 1, (2, 3, 4, 32771), (34927, 50001)
_TIFF_RATIOS = {
    7: 4 * _JPEG_HUFFMAN,
    5: 4096,  # LZW: strings of up to 3,838 bytes per 12 bits
    8: DEFLATE_RATIO,
    32946: DEFLATE_RATIO,
    50013: DEFLATE_RATIO,
    32773: 64,  # PackBits: 128 bytes per 2 bytes
    34925: 1 << 14,  # LZMA: 273 bytes per third of a bit
    34926: 1 << 16,  # zstd: blocks of 128 KiB per 4 bytes
    50000: 1 << 16,
}
# Others (JPEG 2000, LERC, PNG, WebP, ...) code a blank image of any size in a few dozen bytes.
_TIFF_OTHER_RATIO = 1 << 23
_OLD_JPEG = 6  # its strips may be listed incompletely
_CHECKED_AT_END = (8, 32946, 50013, 34925, 34926, 50000)
"""Compressions whose decoders detect that a strip or tile ends early: deflate, LZMA, zstd."""
_YCBCR = 6  # two of its three samples may be stored at a lower resolution
_ABSENT = 1 << 23
"""Maximum size in bytes of a strip or tile that may be absent: GDAL writes none if all is 0."""


class DeclaredSize(NamedTuple):
    """Size that a header declares, with the memory and file size that it requires.

    Attributes:
        size: (height, width), pixels.
        decoded: Number of bytes of the decoded image.
        needed: Minimum number of bytes of a file that contains it.
    """

    size: tuple[int, int]
    decoded: int
    needed: int


def measure_declared_size(
    stream: IO[bytes], start: bytes, kind: str, size: tuple[int, int] | None
) -> DeclaredSize | None:
    """Return the size that the header of a PNG, BMP or JPEG declares.

    Args:
        stream: Image file; its position is restored.
        start: First `image_formats.START_LENGTH` bytes of the file.
        kind: Format, as returned by `image_formats.identify_format`.
        size: (height, width) in the header; for a JPEG None, since it is read from the stream.

    Returns:
        The declared size; None for other formats, and for a file that ends inside its header.
    """
    measure = _MEASURES.get(kind)
    if measure is None or (size is None and kind != "JPEG"):
        return None
    place = stream.tell()
    try:
        return measure(stream, start, size)
    except struct.error:
        return None  # the decoder reports the truncation
    finally:
        stream.seek(place, os.SEEK_SET)


def check_file_length(stream: IO[bytes], declared: DeclaredSize) -> None:
    """Check that a file is long enough for its declared size.

    Args:
        stream: Image file; its position is restored.
        declared: Size that its header declares.

    Raises:
        OSError: If the file is too short.
    """
    place = stream.tell()
    length = stream.seek(0, io.SEEK_END)
    stream.seek(place, os.SEEK_SET)
    if declared.decoded > WORTH_CHECKING and declared.needed > length:
        raise OSError(_format_truncated(length, declared.size))


def _format_truncated(length: int, size: tuple[int, int]) -> str:
    return (
        f"the file is truncated: it has {length:,} bytes, too few for the {size[1]} x {size[0]} "
        "pixels (width x height) that its header declares"
    )


def _measure_png(_: IO[bytes], start: bytes, size: tuple[int, int]) -> DeclaredSize:
    bits, color_type = struct.unpack_from(">BB", start, 24)
    declared = size[0] * -(-size[1] * bits * _PNG_CHANNELS.get(color_type, 1) // 8)
    return DeclaredSize(size, declared, -(-declared // DEFLATE_RATIO))


def _measure_bmp(_: IO[bytes], start: bytes, size: tuple[int, int]) -> DeclaredSize:
    is_core = struct.unpack_from("<I", start, 14)[0] == 12
    bits = struct.unpack_from("<H", start, 24 if is_core else 28)[0]
    compression = 0 if is_core else int.from_bytes(start[30:34], "little")
    pixels = size[0] * size[1]
    if compression in _BMP_RLE:
        return DeclaredSize(size, pixels, pixels // _BMP_JUMP)
    needed = size[0] * (size[1] * bits // 8) if compression in _BMP_PLAIN else 0
    return DeclaredSize(size, 3 * pixels, needed)


def _measure_jpeg(stream: IO[bytes], _: bytes, __: tuple[int, int] | None) -> DeclaredSize:
    """Return the size in the frame header of a JPEG; thumbnails in its segments are skipped.

    If there are several frame headers, the last one is used, as in Pillow.

    Raises:
        OSError: If there are too many segments, or too many bytes between them.
    """
    declared, num_stray = None, 0
    stream.seek(2)
    for num_segments in itertools.count():
        code, num_skipped = _read_jpeg_marker(stream)
        num_stray += num_skipped
        check_jpeg_header(num_segments, num_stray)
        if code == _JPEG_SCAN:
            break
        (length,) = struct.unpack(">H", stream.read(2))
        end = stream.tell() + max(length - 2, 0)
        if code in _JPEG_FRAMES:
            height, width, channels = struct.unpack(">xHHB", stream.read(6))
            pixels = height * width
            ratio = _JPEG_ARITHMETIC if code >= _JPEG_FIRST_ARITHMETIC else _JPEG_HUFFMAN
            declared = DeclaredSize((height, width), pixels * channels, pixels // ratio)
        stream.seek(end)
    if declared is None:
        raise struct.error("no frame header")
    return declared


def _read_jpeg_marker(stream: IO[bytes]) -> tuple[int, int]:
    """Return the next marker with a length field, and the number of bytes skipped before it.

    A marker of -1 means that more bytes were skipped than `MAX_STRAY`.
    """
    code = -1
    for num_read in range(MAX_STRAY + 3):
        previous = code
        (code,) = struct.unpack(">B", stream.read(1))
        if previous == 0xFF and code not in _JPEG_BARE:
            return int(code), num_read - 1
    return -1, MAX_STRAY + 1


_MEASURES: dict[str, Callable[..., DeclaredSize]] = {
    "PNG": _measure_png,
    "BMP": _measure_bmp,
    "JPEG": _measure_jpeg,
}


def check_tiff_length(tiff: Any) -> None:
    """Check that the strips and tiles of a TIFF can hold the pixels that its pages declare.

    Args:
        tiff: Opened TIFF file.

    Raises:
        OSError: If the file is too short for them.
    """
    check_page_count(tiff)
    length = tiff.filehandle.size
    for entry in tiff.pages:
        page = entry.aspage()
        # Readers allocate the declared byte count of a strip, even if the file is shorter.
        largest = max(page.databytecounts, default=0)
        if largest > max(length, WORTH_CHECKING):
            raise OSError(
                f"the file is truncated: it has {length:,} bytes, but declares a strip or tile of "
                f"{largest:,}"
            )
        samples = 1 if int(page.photometric) == _YCBCR else page.samplesperpixel
        row = -(-page.imagewidth * samples * page.bitspersample // 8)
        rows = page.imagelength * page.imagedepth
        # Pillow uses one byte for a pixel of 1 bit, hence the width as a lower bound.
        is_worth_checking = max(row, page.imagewidth) * rows > WORTH_CHECKING
        if is_worth_checking and not (
            _can_hold(page, row, rows, length) and _has_webp_size(tiff, page)
        ):
            raise OSError(_format_truncated(length, (page.imagelength, page.imagewidth)))
        _check_segments(page, length)
    _check_last_page(tiff, length)


def check_page_count(tiff: Any) -> None:
    """Check that a TIFF does not have more pages than `MAX_PAGES`, without reading all of them.

    Raises:
        OSError: If it has more.
    """
    with suppress(IndexError):
        tiff.pages[MAX_PAGES]
        raise OSError(
            f"it is a TIFF of more than {MAX_PAGES:,} pages, the limit; the pages of an image are "
            "its channels, so that the slices of a volume or the frames of a video must be stored "
            "as separate images"
        )
    num_pages = len(tiff.pages.first.subifds or ())
    if num_pages > MAX_PAGES:
        raise OSError(
            f"it is a TIFF with {num_pages:,} reduced versions of its image, more than the limit "
            f"of {MAX_PAGES:,}; store it again without them"
        )


def _check_last_page(tiff: Any, length: int) -> None:
    """Check that the last page that was read is the last page of the file.

    The pages of an image are its channels, and readers ignore those that a cut has removed.

    Raises:
        OSError: If another page begins behind the end of the file.
    """
    layout, handle = tiff.tiff, tiff.filehandle
    handle.seek(tiff.pages[len(tiff.pages) - 1].offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(num_tags * layout.tagsize, io.SEEK_CUR)
    content = handle.read(layout.offsetsize)
    if len(content) == layout.offsetsize:  # some writers omit the offset behind the last page
        (position,) = struct.unpack(layout.offsetformat, content)
        if position > length:
            raise OSError(
                f"the file is truncated: it has {length:,} bytes, but page {len(tiff.pages) + 1} "
                f"begins at byte {position:,}"
            )


def _check_segments(page: Any, length: int) -> None:
    """Check that a page lists all of its strips or tiles, and that they are inside the file.

    Decoders fill strips that are not listed with zeros, and print lines of their own about others.

    Raises:
        OSError: If they are incomplete.
    """
    compression, expected = int(page.compression), math.prod(page.chunked)
    offsets, counts = page.dataoffsets, page.databytecounts
    is_compressed = compression not in (_PLAIN, _OLD_JPEG)
    is_single = not is_compressed and len(offsets) == 1  # one strip, whose height may be wrong
    if not is_single and (len(offsets) < expected or (is_compressed and len(counts) < expected)):
        raise OSError(
            f"it is damaged: its header lists {min(len(offsets), len(counts))} of {expected} "
            "strips or tiles"
        )
    must_end_inside = is_compressed and compression not in _CHECKED_AT_END
    for offset, count in zip(offsets, counts, strict=False):
        if count and offset + (count if must_end_inside else 1) > length:
            raise OSError(
                f"the file is truncated: it has {length:,} bytes, but a strip or tile of {count:,} "
                f"bytes begins at byte {offset:,}"
            )


def _can_hold(page: Any, row: int, rows: int, length: int) -> bool:
    """Return whether strips and tiles can hold the rows of a page.

    Args:
        page: Page of the TIFF.
        row: Number of bytes of a decoded row.
        rows: Number of rows.
        length: Number of bytes of the file.
    """
    compression = int(page.compression)
    counts = [min(int(count), length) for count in page.databytecounts] or [length]
    present = sum(count > 0 for count in counts)
    if present < len(counts) and row * rows // len(counts) > _ABSENT:
        return False
    if compression == _PLAIN:
        # Readers ignore the byte counts of uncompressed strips, which may be wrong.
        return row * rows * present // len(counts) <= length
    if compression in _CCITT:
        # A blank row takes at least one bit in the densest of these codings.
        return rows * present // len(counts) <= 8 * sum(counts)
    ratio = _TIFF_RATIOS.get(compression, _TIFF_OTHER_RATIO)
    return row * rows * present // len(counts) <= ratio * sum(counts)


def _has_webp_size(tiff: Any, page: Any) -> bool:
    """Return whether the first strip or tile of a WebP page fits the declared width and height.

    True for other compressions.
    """
    segments = zip(page.dataoffsets, page.databytecounts, strict=False)
    offset = next((offset for offset, count in segments if count), None)
    if int(page.compression) not in _WEBP or offset is None:
        return True
    tiff.filehandle.seek(offset)
    size = parse_webp_size(tiff.filehandle.read(32))
    rows, columns = page.chunks[:2]
    return size is not None and size[1] == columns and size[0] <= rows


def parse_webp_size(start: bytes) -> tuple[int, int] | None:
    """Return the (height, width) that a WebP declares, or None if its first chunk is unknown.

    Args:
        start: First 32 bytes of the file.
    """
    chunk = start[12:16]
    if chunk == b"VP8X":
        width, height = start[24:27], start[27:30]
        return 1 + int.from_bytes(height, "little"), 1 + int.from_bytes(width, "little")
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return height & 0x3FFF, width & 0x3FFF
    return None
