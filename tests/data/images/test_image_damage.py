"""Images that are cut or have flipped bits: one sentence that names file and fault."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_damage import describe_damage, describe_read_error
from resnet_tasks.data.images.image_files import read_image_size, try_read_image_size
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError

_NOISE = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
GRAY_8, GRAY_16 = _NOISE[:, :, 0], _NOISE[:, :, 0].astype(np.uint16) * 257
TRUNCATED = "the file is truncated"
PIXELS = "its compressed pixels are damaged"


def encode_pillow(kind: str, array: np.ndarray = _NOISE, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def encode_tiff(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def encode_opencv(array: np.ndarray, suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, array, list(options))[1].tobytes()


def encode_numpy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


LZW = (cv2.IMWRITE_TIFF_COMPRESSION, 5)
COMPLETE: dict[str, Callable[[], bytes]] = {
    "npy": lambda: encode_numpy(GRAY_16),
    "PNG 8": lambda: encode_pillow("PNG"),
    "PNG 16": lambda: encode_opencv(GRAY_16, ".png"),
    "color PNG 16": lambda: encode_opencv(_NOISE.astype(np.uint16) * 257, ".png"),
    "raw TIFF 8": lambda: encode_pillow("TIFF"),
    "raw TIFF 16": lambda: encode_tiff(GRAY_16, rowsperstrip=16),
    "raw BigTIFF 16": lambda: encode_tiff(GRAY_16, bigtiff=True),
    "deflated TIFF 8": lambda: encode_tiff(GRAY_8, compression="zlib", rowsperstrip=16),
    "deflated TIFF 16": lambda: encode_tiff(GRAY_16, compression="zlib", tile=(32, 32)),
    "LZW TIFF 8": lambda: encode_pillow("TIFF", compression="tiff_lzw"),
    "LZW TIFF 16": lambda: encode_opencv(GRAY_16, ".tif", *LZW),
    "PackBits TIFF": lambda: encode_pillow("TIFF", compression="packbits"),
    "JPEG in TIFF": lambda: encode_pillow("TIFF", compression="jpeg"),
    "JPEG": lambda: encode_pillow("JPEG"),
    "progressive JPEG": lambda: encode_pillow("JPEG", progressive=True),
    "BMP": lambda: encode_pillow("BMP"),
    "WebP": lambda: encode_pillow("WEBP", lossless=True),
}


@pytest.mark.parametrize("kind", list(COMPLETE))
def test_cut_files_are_refused_by_every_reader(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    content = COMPLETE[kind]()
    path = tmp_path / "a.img"
    for length in (len(content) // 2, len(content) * 15 // 16):
        path.write_bytes(content[:length])
        for read in (decode_image, lambda path: open_regions(path, 3).read_all()):
            with pytest.raises(DataError, match=rf"a\.img cannot be read: .*{TRUNCATED}") as info:
                read(path)
            assert "\n" not in str(info.value)
        with pytest.raises(DataError, match=r"label map .*a\.img "):
            read_label_map(path)
        assert try_read_image_size(path, decode=True) is None
    assert capfd.readouterr() == ("", "")


def test_cut_behind_the_directory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A TIFF whose directory is in front of its strips states the bytes that it must have."""
    content = encode_tiff(GRAY_8, rowsperstrip=16, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        start, count = tiff.pages.first.dataoffsets[2], tiff.pages.first.databytecounts[2]
    path = tmp_path / "a.tif"
    path.write_bytes(content[:start])
    fault = (
        f"{TRUNCATED}: it has {start:,} bytes, but a strip or tile of {count:,} bytes begins at "
        f"byte {start:,}"
    )
    for read in (decode_image, read_label_map, read_image_size):
        with pytest.raises((DataError, OSError), match=fault):
            read(path)
    # PackBits has no checksum, so that only the length of the file reveals the fault.
    packed = encode_tiff(np.zeros((64, 80), np.uint8))
    with tifffile.TiffFile(io.BytesIO(packed)) as tiff:
        tags = tiff.pages.first.tags
        start = tiff.pages.first.dataoffsets[0]
    changed = bytearray(packed)
    struct.pack_into("<H", changed, tags["Compression"].valueoffset, 32773)
    path.write_bytes(changed[:-1])
    with pytest.raises(DataError, match=rf"of 5,120 bytes begins at byte {start}$"):
        decode_image(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flipped_bits_of_deflated_tiffs_fail_the_checksum(
    tmp_path: Path, dtype: type, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow stops before the checksum of the last strip, and would decode changed pixels."""
    array = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80).astype(dtype)
    content = encode_tiff(array, compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        start, length = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    np.testing.assert_array_equal(decode_image(path).pixels[:, :, 0], array)
    np.testing.assert_array_equal(read_label_map(path), array)
    for place in (start + length // 2, start + length - 1):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        for read in (decode_image, read_label_map):
            with pytest.raises(DataError, match=rf"a\.tif cannot be read: ({PIXELS}|{TRUNCATED})"):
                read(path)
    assert capfd.readouterr() == ("", "")


def test_flipped_bits_of_pngs_fail_the_checksum(tmp_path: Path) -> None:
    for array in (GRAY_8, GRAY_16):
        content = bytearray(encode_opencv(array, ".png"))
        content[len(content) // 2] ^= 1
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=rf"a\.png cannot be read: {PIXELS}"):
            decode_image(tmp_path / "a.png")


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_with_missing_pixels_are_refused(tmp_path: Path, progressive: bool) -> None:
    """Pillow decodes some of them and fills the missing pixels with gray."""
    content = encode_pillow("JPEG", progressive=progressive)
    half = content[: len(content) // 2]
    path = tmp_path / "a.jpg"
    for changed in (half, half + bytes(len(content) - len(half)), half + b"\xff\xd9"):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=rf"a\.jpg cannot be read: ({PIXELS}|{TRUNCATED})"):
            decode_image(path)
    for padded in (content + bytes(100), content[:-2] + bytes(9) + content[-2:]):
        path.write_bytes(padded)  # bytes after the pixels do no harm
        np.testing.assert_array_equal(
            decode_image(path).pixels, np.asarray(Image.open(io.BytesIO(content)))
        )


def test_strips_that_are_not_listed_are_not_read_as_zeros(tmp_path: Path) -> None:
    content = bytearray(encode_tiff(GRAY_16 + 1, rowsperstrip=16, compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
    content[tag.offset] ^= 16  # another tag, so that no length of a strip is known
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    for read in (decode_image, open_regions, read_label_map):
        with pytest.raises(DataError, match="its header lists 1 of 4 strips or tiles"):
            read(path)


def test_absent_tiles_of_sparse_files_are_zeros(tmp_path: Path) -> None:
    content = bytearray(encode_tiff(GRAY_16 + 1, tile=(32, 32), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        tags = tiff.pages.first.tags
        for name in ("TileOffsets", "TileByteCounts"):
            size = tags[name].valuebytecount // tags[name].count
            content[tags[name].valueoffset :][:size] = bytes(size)
            start = tags[name].valueoffset
            content[start : start + size] = bytes(size)
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    expected = GRAY_16 + 1
    expected[:32, :32] = 0
    np.testing.assert_array_equal(decode_image(path).pixels[:, :, 0], expected)
    assert open_regions(path, 1).read(Tile(30, 30, 3, 3))[:, :, 0].tolist() == (
        expected[30:33, 30:33].tolist()
    )


def test_tags_that_tifffile_cannot_interpret_are_not_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """GDAL_NODATA (42113) outside the type of the pixels."""
    path = tmp_path / "a.tif"
    path.write_bytes(encode_tiff(GRAY_16, extratags=[(42113, "s", 6, "-9999", True)]))
    np.testing.assert_array_equal(decode_image(path).pixels[:, :, 0], GRAY_16)
    assert read_image_size(path) == (64, 80)
    assert capfd.readouterr() == ("", "")
    # A program that configures logging still gets the lines.
    assert any("GDAL_NODATA" in record.getMessage() for record in caplog.records)
    assert any(
        isinstance(handler, logging.NullHandler)
        for handler in logging.getLogger("tifffile").handlers
    )


def test_texts_of_libraries_are_replaced() -> None:
    assert describe_damage(ZeroDivisionError("integer division")) == "its header is damaged"
    assert describe_damage(zlib.error("Error -3 while decompressing data: x")) == PIXELS
    assert describe_damage(OSError("disk fault")) == "disk fault"
    assert describe_damage(KeyError("LZW needs it")) == "LZW needs it"
    path = Path("a.png")
    for text in ("image a.png cannot be read: x", "a.png is not an image that can be read: x"):
        assert describe_read_error(DataError(text), path) == "x"
