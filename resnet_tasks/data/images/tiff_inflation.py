"""Decompression of TIFFs, limited to the size that they declare.

Without imagecodecs, tifffile decompresses a strip or tile completely, however small the declared
image is, so that a file of 1 MB can require 1 GB of memory.
"""

from __future__ import annotations

import logging
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnet_tasks.data.images.declared_sizes import check_tiff_length
from resnet_tasks.files.foreign_files import START_LENGTH, identify_foreign_file

if TYPE_CHECKING:
    import tifffile

DEFLATE = (8, 32946, 50013)
"""Numbers of deflate among the compressions of TIFF."""
_CHUNK = 1 << 20
_ENDS_EARLY = "the file is truncated or damaged: a strip or tile ends early"
_LZMA = 34925
_ZSTD = (34926, 50000)
_SLACK = 1 << 26  # bytes; some writers pad the last strip to the height of the others


def open_tiff(file: Path | IO[bytes], *, check_length: bool = True) -> tifffile.TiffFile:
    """Open a TIFF whose strips and tiles are decompressed within limits.

    Args:
        file: Path of the file, or its bytes as a stream.
        check_length: Whether to check that the file is long enough for the pixels it declares.

    Raises:
        Exception: Any of `image_files.DAMAGE` if it is damaged.
    """
    limit_inflation()
    _hide_log()
    # Imported only for a TIFF: commands that read results files without images finish in a fraction
    # of a second, and this import would slow them down noticeably.
    tiff: tifffile.TiffFile = import_module("tifffile").TiffFile(file)
    try:
        _require_directory(tiff)
        if check_length:
            check_tiff_length(tiff)
    except BaseException:
        tiff.close()
        raise
    return tiff


@cache
def _hide_log() -> None:
    """Hide the log of tifffile, unless the program has configured logging.

    It has a line for every tag that tifffile cannot interpret, such as a GDAL_NODATA outside the
    type of the pixels, each time that the file is opened. Faults of the pixels raise errors.
    """
    logging.getLogger("tifffile").addHandler(logging.NullHandler())


def _require_directory(tiff: tifffile.TiffFile) -> None:
    """Check that a TIFF has a page; tifffile opens files without pages.

    Raises:
        OSError: If it has none, or is a DICOM file, whose preamble may look like a TIFF.
    """
    handle = tiff.filehandle
    try:
        tiff.pages.first  # noqa: B018  # reads the directory
    except IndexError:
        handle.seek(0)
        kind = identify_foreign_file(handle.read(START_LENGTH))
        if kind is not None:
            raise OSError(f"it is {kind.name}; {kind.remedy}") from None
        raise OSError(
            f"the file is truncated or damaged: it has {handle.size:,} bytes, but no directory of "
            "a TIFF image at the position that its header states"
        ) from None


def verify_deflate(tiff: tifffile.TiffFile) -> None:
    """Verify the checksums of a deflated TIFF, for decoders that do not, such as Pillow.

    Args:
        tiff: Opened TIFF file; with another compression, nothing is read.

    Raises:
        ValueError: If a strip or tile is truncated.
        zlib.error: If a strip or tile is damaged.
    """
    for page in (entry.aspage() for entry in tiff.pages):
        if int(page.compression) not in DEFLATE:
            continue
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            tiff.filehandle.seek(offset)
            pending, decoder = tiff.filehandle.read(count), zlib.decompressobj()
            while count and pending and not decoder.eof:
                decoder.decompress(pending, _CHUNK)
                pending = decoder.unconsumed_tail
            if count and not decoder.eof:
                raise ValueError(_ENDS_EARLY)


@cache
def limit_inflation() -> None:
    """Make tifffile raise an error if a strip or tile far exceeds its declared size."""
    if find_spec("imagecodecs") is not None:  # imagecodecs has this limit
        return
    decoders: dict[int, Callable[..., bytes]] = dict.fromkeys(DEFLATE, _inflate)
    decoders[_LZMA] = _decode_lzma
    has_zstd = find_spec("_zstd") is not None  # Python 3.14, whose zstd tifffile uses
    if has_zstd:
        decoders.update(dict.fromkeys(_ZSTD, _decode_zstd))
    tiff: Any = import_module("tifffile").TIFF
    tiff.DECOMPRESSORS = _Decoders(decoders, tiff.DECOMPRESSORS, () if has_zstd else _ZSTD)


class _Decoders(dict[int, Callable[..., bytes]]):
    """Mapping from TIFF compression numbers to decoders, with those of tifffile as the default.

    Args:
        own: Decoders of this module by compression number.
        default_decoders: Decoders of tifffile by compression number; it raises for unknown ones.
        absent: Compression numbers without a decoder.
    """

    def __init__(
        self,
        own: Mapping[int, Callable[..., bytes]],
        default_decoders: Mapping[int, Any],
        absent: Sequence[int],
    ) -> None:
        super().__init__(own)
        self._default_decoders = default_decoders
        self._absent = absent

    def __missing__(self, code: int) -> Callable[..., bytes]:
        if code in self._absent:
            # tifffile would fail to import its decoder without naming the missing package.
            name = import_module("tifffile").COMPRESSION(code).name
            raise KeyError(f"{name} compression requires the 'imagecodecs' package")
        return self._default_decoders[code]  # type: ignore[no-any-return]

    def __contains__(self, code: object) -> bool:
        is_absent = code in self._absent
        return super().__contains__(code) or (not is_absent and code in self._default_decoders)


def _inflate(data: bytes, /, *, out: Any = None, **_: Any) -> bytes:
    return (
        zlib.decompress(data)
        if out is None
        else _decompress_bounded(zlib.decompressobj(), data, out)
    )


def _decode_lzma(data: bytes, /, *, out: Any = None, **_: Any) -> bytes:
    return (
        lzma.decompress(data)
        if out is None
        else _decompress_bounded(lzma.LZMADecompressor(), data, out)
    )


def _decode_zstd(data: bytes, /, *, out: Any = None, **_: Any) -> bytes:
    zstd: Any = import_module("compression.zstd")
    try:
        if out is None:
            content: bytes = zstd.decompress(data)
            return content
        return _decompress_bounded(zstd.ZstdDecompressor(), data, out)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None


def _decompress_bounded(decoder: Any, data: bytes, declared: int) -> bytes:
    """Decompress a strip or tile within its declared size.

    Args:
        decoder: Decompressor object of zlib, lzma or zstd.
        data: Compressed bytes.
        declared: Number of decompressed bytes according to the header.

    Raises:
        ValueError: If it exceeds the declared size by more than `_SLACK`, or ends early.
    """
    most = declared + _SLACK
    content: bytes = decoder.decompress(data, most + 1)
    if len(content) > most:
        raise ValueError(
            f"a strip or tile of {declared:,} bytes holds more than {most:,} when decompressed"
        )
    if not decoder.eof:
        raise ValueError(_ENDS_EARLY)
    return content
