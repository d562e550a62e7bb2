"""Recognition of image formats that do not store pixel values exactly.

A class id that is off by one is another class, so lossy files cannot hold label maps. The format is
recognized by the content of the file and not by its name.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.files.regular_files import open_regular_file

_HEADER_BYTES = 32
_JPEG_START = b"\xff\xd8\xff"
_JPEG_XL_STARTS = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")
_JPEG_2000_STARTS = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ")
_JPEG_XR_START = b"II\xbc"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"heim": "HEIC",
    b"heis": "HEIC",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
}
_TIFF_WEBP = (34927, 50001)
# Compressions that are known to be exact. Any other compression may round values.
_LOSSLESS_TIFF = frozenset(
    (
        *(1, 2, 3, 4, 5, 8),  # none, CCITT (three kinds), LZW, deflate
        *(32766, 32771, 32773, 32809),  # NeXT, CCITT word-aligned, PackBits, ThunderScan
        *(32946, 34925, 34926, 34933),  # older deflate, LZMA, older zstd, PNG
        *(50000, 50013),  # zstd, Pixtiff deflate
    )
)


def find_lossy_format(file: Path | IO[bytes]) -> str | None:
    """Return the name of the lossy format of a file, or None if it is lossless.

    JPEG 2000, AVIF, HEIC and JPEG XL also have lossless modes, but a file does not reliably state
    which one its encoder used. They therefore count as lossy.

    Args:
        file: Path of the file, or its bytes as a stream.

    Raises:
        OSError: If the file cannot be read.
        Exception: Any of `image_files.DAMAGE` if a TIFF is damaged.
    """
    if isinstance(file, Path):
        with open_regular_file(file) as stream:
            return _find_in_stream(stream)
    file.seek(0)
    lossy_format = _find_in_stream(file)
    file.seek(0)
    return lossy_format


def _find_in_stream(stream: IO[bytes]) -> str | None:
    header = stream.read(_HEADER_BYTES)
    if header.startswith(_JPEG_START):
        return "JPEG"
    if header.startswith(_JPEG_2000_STARTS):
        return "JPEG 2000"
    if header.startswith(_JPEG_XL_STARTS):
        return "JPEG XL"
    if header.startswith(_JPEG_XR_START):
        return "JPEG XR"
    if header[4:8] == b"ftyp":
        brands = (header[8:12], *(header[at : at + 4] for at in range(16, len(header), 4)))
        return next((_HEIF_BRANDS[brand] for brand in brands if brand in _HEIF_BRANDS), None)
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return "lossy WebP" if _is_lossy_webp(stream) else None
    if header.startswith(_TIFF_STARTS):
        return _find_lossy_compression(stream)
    return None


def _is_lossy_webp(stream: IO[bytes]) -> bool:
    """Return whether a WebP has a `VP8 ` chunk; lossless images have `VP8L` in its place."""
    stream.seek(12)
    while len(chunk := stream.read(8)) == 8:
        kind, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind == b"VP8 ":
            return True
        # The image chunks of an animation frame are inside `ANMF`, after 16 bytes.
        skipped = 16 if kind == b"ANMF" else length + length % 2
        stream.seek(skipped, io.SEEK_CUR)
    return False


def _find_lossy_compression(stream: IO[bytes]) -> str | None:
    stream.seek(0)
    with open_tiff(stream) as tiff:
        for page in (entry.aspage() for entry in tiff.pages):
            compression = int(page.compression)
            if compression in _TIFF_WEBP and not _is_lossy_webp_segment(stream, page):
                continue
            if compression not in _LOSSLESS_TIFF:
                return f"TIFF with {getattr(page.compression, 'name', compression)} compression"
    return None


def _is_lossy_webp_segment(stream: IO[bytes], page: Any) -> bool:
    stream.seek(page.dataoffsets[0])
    return _is_lossy_webp(io.BytesIO(stream.read(page.databytecounts[0])))
