"""Decompression of TIFFs within the size that they declare.

Without imagecodecs, tifffile inflates a strip or tile to whatever its data says, however small the
declared image is: a file of 1 MB takes 1 GB.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import tifffile

_DEFLATE = (8, 32946)
_LZMA = 34925
_SLACK = 1 << 26  # bytes; some writers fill the last strip up to the height of the others


def limit_inflation() -> None:
    """Make tifffile stop where a strip or tile exceeds its declared size by far."""
    if find_spec("imagecodecs") is not None:  # stops by itself
        return
    decoders: dict[int, Callable[..., bytes]] = dict.fromkeys(_DEFLATE, _inflate)
    decoders[_LZMA] = _decode_lzma
    tiff: Any = tifffile.TIFF
    tiff.DECOMPRESSORS = _Decoders(decoders, tiff.DECOMPRESSORS)


class _Decoders(dict[int, Callable[..., bytes]]):
    """Decoders by TIFF's number of the compression; others come from tifffile, errors included."""

    def __init__(
        self, own: Mapping[int, Callable[..., bytes]], default_decoders: Mapping[int, Any]
    ) -> None:
        super().__init__(own)
        self._default_decoders = default_decoders

    def __missing__(self, code: int) -> Callable[..., bytes]:
        return self._default_decoders[code]  # type: ignore[no-any-return]

    def __contains__(self, code: object) -> bool:
        return super().__contains__(code) or code in self._default_decoders


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


def _decompress_bounded(decoder: Any, data: bytes, declared: int) -> bytes:
    """Decompress a strip or tile.

    Args:
        decoder: Of zlib or lzma.
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
