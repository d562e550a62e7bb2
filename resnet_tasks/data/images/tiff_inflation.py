"""Decompression of TIFFs within the size that they declare.

Without imagecodecs, tifffile inflates a strip or tile to whatever its data says, however small the
declared image is: a file of 1 MB takes 1 GB.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnet_tasks.data.images.declared_sizes import check_tiff_length

if TYPE_CHECKING:
    import tifffile

_DEFLATE = (8, 32946, 50013)
_LZMA = 34925
_ZSTD = (34926, 50000)
_SLACK = 1 << 26  # bytes; some writers fill the last strip up to the height of the others


def open_tiff(file: Path | IO[bytes], *, check_length: bool = True) -> tifffile.TiffFile:
    """Open a TIFF, whose strips and tiles are then decompressed within limits.

    Args:
        file: Path of the file, or its bytes as a stream.
        check_length: Whether to check that it can hold what it declares; False where it is known.

    Raises:
        Exception: Any of `image_files.DAMAGE` if it is damaged.
    """
    limit_inflation()
    # Imported where there is a TIFF: results files are read without any image, in a fraction of a
    # second, of which this import would be a part.
    tiff: tifffile.TiffFile = import_module("tifffile").TiffFile(file)
    if check_length:
        try:
            check_tiff_length(tiff)
        except BaseException:
            tiff.close()
            raise
    return tiff


@cache
def limit_inflation() -> None:
    """Make tifffile stop where a strip or tile exceeds its declared size by far."""
    if find_spec("imagecodecs") is not None:  # stops by itself
        return
    decoders: dict[int, Callable[..., bytes]] = dict.fromkeys(_DEFLATE, _inflate)
    decoders[_LZMA] = _decode_lzma
    has_zstd = find_spec("_zstd") is not None  # Python 3.14, whose zstd tifffile uses
    if has_zstd:
        decoders.update(dict.fromkeys(_ZSTD, _decode_zstd))
    tiff: Any = import_module("tifffile").TIFF
    tiff.DECOMPRESSORS = _Decoders(decoders, tiff.DECOMPRESSORS, () if has_zstd else _ZSTD)


class _Decoders(dict[int, Callable[..., bytes]]):
    """Decoders by TIFF's number of the compression; others come from tifffile, errors included.

    Args:
        own: Decoders of this module.
        default_decoders: Those of tifffile.
        absent: Numbers without a decoder.
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
            # tifffile fails to import its own, with no error that stands for a missing codec.
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
    """Decompress a strip or tile.

    Args:
        decoder: Of zlib, lzma or zstd.
        data: Compressed bytes.
        declared: Bytes that the image needs of it.

    Raises:
        ValueError: If it is much larger, or ends early.
    """
    most = declared + _SLACK
    content: bytes = decoder.decompress(data, most + 1)
    if len(content) > most:
        raise ValueError(
            f"a strip or tile of {declared:,} bytes holds more than {most:,} when decompressed"
        )
    if not decoder.eof:
        raise ValueError("a strip or tile is truncated")
    return content
