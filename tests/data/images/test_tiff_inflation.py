"""Strips and tiles of TIFFs that inflate far beyond the image that they belong to."""

from __future__ import annotations

import lzma
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile

from data_tools.reading.mask_foreground import MaskReader
from resnet_tasks.data.images import tiff_inflation
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.errors import DataError

PIXELS = np.arange(20 * 16, dtype=np.uint16).reshape(20, 16)


def with_strip(path: Path, strip: bytes, compression: str) -> Path:
    """Write a TIFF of one strip, and put another strip in its place."""
    tifffile.imwrite(path, PIXELS, compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        end = path.stat().st_size
        tags["StripOffsets"].overwrite(end)
        tags["StripByteCounts"].overwrite(len(strip))
    with path.open("ab") as stream:
        stream.write(strip)
    return path


@pytest.mark.parametrize(
    ("compression", "encode"), [("zlib", zlib.compress), ("lzma", lzma.compress)]
)
def test_bombs_are_refused_and_others_read(
    tmp_path: Path, compression: str, encode: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(encode)
    whole = encode(PIXELS.astype("<u2").tobytes())
    path = with_strip(tmp_path / "a.tif", whole, compression)
    np.testing.assert_array_equal(read_image(path, 1)[:, :, 0], PIXELS)
    monkeypatch.setattr(tiff_inflation, "_SLACK", 1000)
    bomb = encode(bytes(20 * 16 * 2 + 1001))
    path = with_strip(tmp_path / "bomb.tif", bomb, compression)
    for read in (read_image, open_regions):
        with pytest.raises(DataError, match=r"bomb\.tif .*640 bytes holds more than 1,640"):
            read(path, 1)
    path = with_strip(tmp_path / "cut.tif", whole[:-9], compression)
    with pytest.raises(DataError, match=r"cut\.tif cannot be read: .*a strip or tile ends early"):
        read_image(path, 1)


def test_damage_is_found_by_the_checksum(tmp_path: Path) -> None:
    strip = bytearray(zlib.compress(PIXELS.astype("<u2").tobytes()))
    struct.pack_into(">I", strip, len(strip) - 4, 1)
    path = with_strip(tmp_path / "a.tif", bytes(strip), "zlib")
    with pytest.raises(DataError, match=r"a\.tif cannot be read: its compressed pixels are"):
        read_image(path, 1)


def test_damaged_lzma_is_one_sentence_everywhere(tmp_path: Path) -> None:
    strip = bytearray(lzma.compress(PIXELS.astype("<u2").tobytes()))
    strip[len(strip) // 2] ^= 0xFF
    path = with_strip(tmp_path / "a.tif", bytes(strip), "lzma")
    for read in (
        lambda: read_image(path, 1),
        lambda: open_regions(path, 1),
        lambda: read_label_map(path),
        lambda: MaskReader().read(path),
    ):
        with pytest.raises(DataError, match=r"a\.tif cannot be read"):
            read()
    assert try_read_image_size(path, decode=True) is None
    assert try_read_image_size(path) == (20, 16)


def test_zstd_without_a_codec_is_one_sentence(tmp_path: Path) -> None:
    """tifffile itself fails to import `compression`, which Python has since 3.14."""
    if find_spec("_zstd") or find_spec("imagecodecs"):
        pytest.skip("a codec of zstd is installed")
    path = with_strip(tmp_path / "a.tif", b"\x28\xb5\x2f\xfd" + bytes(20), "zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(50000)
    for read in (lambda: read_image(path, 1), lambda: open_regions(path, 1)):
        with pytest.raises(DataError, match=r"a\.tif .*ZSTD"):
            read()
    with pytest.raises(DataError, match=r"a\.tif cannot be read"):
        read_label_map(path)
    assert try_read_image_size(path, decode=True) is None
