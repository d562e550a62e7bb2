"""Recognition of image formats by content, and check of the sizes that headers declare.

The name of a file is no evidence of its content. A decoder that tries all formats also tries those
that run programs or allocate memory before they check the size. Therefore only files in an allowed
format reach a decoder, only the decoder of that format, and only after the declared size is
checked.
"""

from __future__ import annotations

import struct
from typing import IO

from PIL import Image, UnidentifiedImageError

from resnet_tasks.data.images.declared_sizes import (
    check_file_length,
    measure_declared_size,
    parse_webp_size,
)
from resnet_tasks.data.images.size_limits import check_png_chunks
from resnet_tasks.files.foreign_files import describe_foreign_file

NUMPY = "numpy"
TIFF = "TIFF"
READABLE = "PNG, JPEG, TIFF, BMP, WebP, GIF, AVIF or npy"
"""Names of the allowed formats, for error messages."""
START_LENGTH = 32
"""Number of bytes that identify a format; for most formats they contain the declared size."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\x93NUMPY", NUMPY),
    (b"BM", "BMP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_CONTAINER_BRANDS = (b"mif1", b"msf1")


class OversizedImageError(Image.DecompressionBombError):
    """Error for a header that declares more pixels than allowed.

    Args:
        size: (height, width), pixels.
        limit: Maximum number of pixels.
    """

    def __init__(self, size: tuple[int, int], limit: int) -> None:
        super().__init__(
            f"it has {size[1]} x {size[0]} pixels (width x height), more than the limit of "
            f"{limit:,}"
        )
        self.size = size


def read_start(stream: IO[bytes]) -> bytes:
    """Return the first `START_LENGTH` bytes of a stream, and rewind it."""
    stream.seek(0)
    start = stream.read(START_LENGTH)
    stream.seek(0)
    return start


def identify_format(start: bytes) -> str | None:
    """Return the format of a file (Pillow's name or `NUMPY`), or None if it is not allowed.

    Args:
        start: First `START_LENGTH` bytes of the file.
    """
    for signature, name in _SIGNATURES:
        if start.startswith(signature):
            return name
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if _is_avif(start) else None


def _is_avif(start: bytes) -> bool:
    if start[4:8] != b"ftyp":
        return False
    # Some writers give the container as the major brand, followed by the compatible brands.
    compatible = start[8:12] in _CONTAINER_BRANDS and any(b in start[16:] for b in _AVIF_BRANDS)
    return start[8:12] in _AVIF_BRANDS or compatible


def require_format(stream: IO[bytes], start: bytes) -> str:
    """Return the format of a file, which must be allowed; see `identify_format`.

    Args:
        stream: Image file; it is rewound.
        start: First `START_LENGTH` bytes of the file.

    Raises:
        UnidentifiedImageError: If it is not allowed; the message names the format if it is known.
    """
    name = identify_format(start)
    if name is None:
        raise UnidentifiedImageError(describe_foreign_file(stream, READABLE))
    return name


def check_declared_size(stream: IO[bytes], start: bytes, kind: str, limit: int | None) -> None:
    """Check the size that a header declares and its parts, before a decoder reads them.

    TIFF and AVIF are not checked here: their first bytes do not contain the size, and their
    decoders allocate nothing on opening. `check_tiff_length` checks a TIFF.

    Args:
        stream: Image file; its position is restored.
        start: First `START_LENGTH` bytes of the file.
        kind: Format, as returned by `identify_format`.
        limit: Maximum number of pixels; None: no limit.

    Raises:
        OversizedImageError: If the size exceeds the limit.
        OSError: If the file is too short for the size that it declares, or has too many parts.
    """
    try:
        size = _parse_declared_size(start, kind)
    except struct.error:
        return  # truncated: the decoder reports it
    declared = measure_declared_size(stream, start, kind, size)
    size = size if declared is None else declared.size
    if size is not None and limit is not None and size[0] * size[1] > limit:
        raise OversizedImageError(size, limit)
    if declared is not None:
        check_file_length(stream, declared)
    if kind == "PNG":
        check_png_chunks(stream)


def _parse_declared_size(start: bytes, kind: str) -> tuple[int, int] | None:
    """Return the (height, width) in a header; None if the first bytes do not contain it."""
    if kind == "PNG":
        width, height = struct.unpack_from(">II", start, 16)
    elif kind == "GIF":
        width, height = struct.unpack_from("<HH", start, 6)
    elif kind == "BMP":
        is_core = struct.unpack_from("<I", start, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if is_core else "<ii", start, 18)
    elif kind == "WEBP":
        return parse_webp_size(start)
    else:
        return None
    return abs(height), abs(width)  # a BMP with a negative height stores the top row first
