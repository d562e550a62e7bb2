"""Label maps are read exactly or not at all: lossy formats, pages, floats, types."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.lossy_formats import find_lossy_format
from resnet_tasks.errors import DataError

IDS = np.repeat(np.arange(6, dtype=np.uint8), 12).reshape(6, 12)
RGB = np.repeat(IDS[..., None] * np.uint8(40), 3, axis=2)


def pillow(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


LOSSY = {
    "JPEG": lambda: pillow(IDS, format="JPEG", quality=100),
    "JPEG 2000": lambda: pillow(IDS, format="JPEG2000", irreversible=True),
    "lossy WebP": lambda: pillow(RGB, format="WEBP", quality=95),
    "TIFF with JPEG compression": lambda: pillow(IDS, format="TIFF", compression="jpeg"),
    "AVIF": lambda: pillow(RGB, format="AVIF"),
    "HEIC": lambda: struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic",
    "JPEG XL": lambda: b"\xff\x0a" + bytes(40),
    "JPEG XR": lambda: b"II\xbc\x01" + bytes(40),
}


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_lossy_formats_are_rejected_whatever_the_file_is_called(
    name: str, suffix: str, tmp_path: Path
) -> None:
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(LOSSY[name]())
    with pytest.raises(DataError, match=rf"label map .*a\.{suffix} is stored as {name}, which"):
        read_label_map(file)


def test_extended_webp_counts_by_its_image_chunk() -> None:
    """A profile or an alpha channel puts the image behind a VP8X header."""
    options: dict[str, Any] = {"format": "WEBP", "icc_profile": b"profile"}
    lossy = pillow(RGB, quality=90, **options)
    exact = pillow(RGB, lossless=True, **options)
    assert (lossy[12:16], exact[12:16]) == (b"VP8X", b"VP8X")
    assert find_lossy_format(io.BytesIO(lossy)) == "lossy WebP"
    assert find_lossy_format(io.BytesIO(exact)) is None


LOSSLESS = {
    "png": lambda: pillow(IDS, format="PNG"),
    "png named jpg": lambda: pillow(IDS, format="PNG"),
    "bmp": lambda: pillow(IDS, format="BMP"),
    "gif": lambda: pillow(IDS, format="GIF"),
    "webp": lambda: pillow(IDS, format="WEBP", lossless=True),
    **{
        f"tiff {name}": lambda name=name: pillow(IDS, format="TIFF", compression=name)
        for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    },
    **{
        f"tiff of {kind}": lambda kind=kind: tiff(IDS.astype(kind))
        for kind in ("int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
    },
    **{
        f"tiff of {kind}": lambda kind=kind: tiff(IDS.astype(kind) * 0.9998)
        for kind in ("float32", "float64")
    },
    "tiff of float16": lambda: tiff(IDS.astype("float16")),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_stored_values_are_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(LOSSLESS[name]())
    assert read_label_map(file).tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.9985, r"0\.9985"),
        (2.5, r"2\.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (-1.0, "-1"),
        (65536.0, "65536"),
        (3e38, r"3e\+38"),
    ],
)
def test_other_floats_are_rejected_with_their_position(
    value: float, shown: str, tmp_path: Path
) -> None:
    pixels = IDS.astype(np.float32)
    pixels[4, 7:9] = value
    (tmp_path / "a.tif").write_bytes(tiff(pixels))
    with pytest.raises(DataError, match=rf"a\.tif holds {shown} at x 7, y 4 \(2 such pixels\)"):
        read_label_map(tmp_path / "a.tif")


def test_floats_count_as_8_bits_where_they_fit(tmp_path: Path) -> None:
    """Void is 255 in 8 bits and 65535 in 16."""
    for void, kind in ((255, np.uint8), (65535, np.uint16)):
        pixels = np.where(IDS == 5, np.float32(void), IDS.astype(np.float32))
        (tmp_path / "a.tif").write_bytes(tiff(pixels))
        assert read_label_map(tmp_path / "a.tif").dtype == kind


def test_negative_int8_is_not_read_as_255(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(IDS.astype(np.int8) - np.int8(1)))
    assert read_label_map(tmp_path / "a.tif").min() == -1


def frames(**options: Any) -> bytes:
    return pillow(IDS, save_all=True, append_images=[Image.fromarray(IDS[::-1].copy())], **options)


SEVERAL = {
    "tiff": lambda: frames(format="TIFF"),
    "tiff by tifffile": lambda: tiff(np.stack([IDS, IDS]), photometric="minisblack"),
    "stack of ImageJ": lambda: tiff(np.stack([IDS, IDS]), imagej=True),
    "gif": lambda: frames(format="GIF"),
    "png": lambda: frames(format="PNG"),
    "webp": lambda: frames(format="WEBP", lossless=True),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_files_of_several_images_are_rejected(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(SEVERAL[name]())
    number = "several" if name == "gif" else "2"
    with pytest.raises(DataError, match=rf"a\.tif holds {number} images \(pages or frames\)"):
        read_label_map(tmp_path / "a.tif")


def test_an_overview_is_no_second_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(IDS)
        writer.write(IDS[::2, ::2], subfiletype=1)
    assert read_label_map(tmp_path / "a.tif").tolist() == IDS.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: pillow(RGB, format="PNG"), "got 3 channels"),
        (lambda: tiff(RGB, photometric="rgb"), "got 3 channels"),
        (lambda: pillow(IDS, format="PNG")[:-30], "cannot be read"),
        (lambda: b"text", "cannot be read"),
        (lambda: b"", "cannot be read"),
        (lambda: b"II*\0text", "cannot be read"),
    ],
)
def test_other_content_is_rejected(content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content())
    with pytest.raises(DataError, match=message):
        read_label_map(tmp_path / "a.png")


def test_palette_indices_are_the_values(tmp_path: Path) -> None:
    image = Image.frombytes("P", (12, 6), IDS.tobytes())
    image.putpalette([value for n in range(256) for value in (255 - n, n, 7)])
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert read_label_map(tmp_path / name).tolist() == IDS.tolist()


def test_large_files_are_rejected_before_they_are_decoded(tmp_path: Path) -> None:
    for kind in ("uint8", "uint32"):
        (tmp_path / "a.tif").write_bytes(tiff(np.zeros((300, 300), kind)))
        assert read_label_map(tmp_path / "a.tif", max_pixels=90_000).shape == (300, 300)
        with pytest.raises(DataError, match=r"a\.tif cannot be read: .*limit of [36]0,?000"):
            read_label_map(tmp_path / "a.tif", max_pixels=30_000)


def test_sixteen_bits(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), IDS.astype(np.uint16) * 300)
    assert read_label_map(tmp_path / "a.png").tolist() == (IDS.astype(int) * 300).tolist()


# --- values are read as stored, not as shown

CLASSES = np.repeat(np.array([0, 1, 0, 3], np.uint8), 9).reshape(4, 9)


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
def test_booleans_of_tifffile_are_not_inverted(compression: str | None, tmp_path: Path) -> None:
    """They are declared as white at 0 by default."""
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, CLASSES == 1, compression=compression)
    np.testing.assert_array_equal(read_label_map(file), CLASSES == 1)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_white_at_zero_does_not_change_values(kind: str, byteorder: str, tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "miniswhite", "byteorder": byteorder}
    tifffile.imwrite(file, CLASSES.astype(kind), **options)
    np.testing.assert_array_equal(read_label_map(file), CLASSES)


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_of_pillow_is_read_as_stored(
    compression: str, photometric: int, tmp_path: Path
) -> None:
    """For white at 0 Pillow stores the complement."""
    file, stored = tmp_path / "a.tif", CLASSES == 1
    Image.fromarray(stored).save(file, compression=compression, tiffinfo={262: photometric})
    expected = stored if photometric else ~stored
    np.testing.assert_array_equal(read_label_map(file), expected)


def pack(values: np.ndarray, bits: int) -> list[bytes]:
    """Rows of values of fewer than 8 bits."""
    is_set = (values[..., None] >> np.arange(bits)[::-1]) & 1
    return [np.packbits(row.astype(np.uint8)).tobytes() for row in is_set]


def gray_tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    pixels = b"".join(pack(values, bits))
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    pixels += bytes(len(pixels) % 2)
    start = b"II*\0" + struct.pack("<I", 8 + len(pixels))
    return start + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def gray_png(values: np.ndarray, bits: int) -> bytes:
    rows = b"".join(b"\0" + row for row in pack(values, bits))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits_are_not_stretched(bits: int, tmp_path: Path) -> None:
    """Pillow shows the largest value of 2 and 4 bits as 255."""
    values = (np.arange(15).reshape(3, 5) % 2**bits).astype(np.uint8)
    file = tmp_path / "a"
    for content in (gray_png(values, bits), *(gray_tiff(values, bits, p) for p in (0, 1))):
        file.write_bytes(content)
        np.testing.assert_array_equal(read_label_map(file), values)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_names_that_no_file_can_have_are_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is missing"):
        read_label_map(tmp_path / name)
