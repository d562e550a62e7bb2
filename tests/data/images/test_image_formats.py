"""Formats by content, and declared sizes that are refused before anything is allocated."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from resnet_tasks.data.images.decoding import decode_image, read_image
from resnet_tasks.data.images.image_files import open_image, try_read_image_size
from resnet_tasks.data.images.image_formats import OversizedImageError, identify_format
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.errors import DataError
from tests.support.paths import ROOT

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def encode(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def png_chunk(name: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)


def tiny_png(size: tuple[int, int], bits: int, *, checksum: int | None = None) -> bytes:
    """A PNG of 75 bytes that declares (height, width) and holds next to nothing."""
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, 2, 0, 0, 0)
    body = zlib.compress(bytes(40))
    content = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header, checksum=checksum)
    content += png_chunk(b"IDAT", body.ljust(18, b"\0")) + png_chunk(b"IEND", b"")
    assert len(content) == 75
    return content


FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"]
FORMATS += ["AVIF"] if features.check("avif") else []


@pytest.mark.parametrize("kind", FORMATS)
def test_names_do_not_decide(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.hdr"
    path.write_bytes(encode(kind))
    assert identify_format(path.read_bytes()[:32]) == kind
    assert read_image(path).shape == (5, 7, 3)
    assert try_read_image_size(path) == (5, 7)
    if kind in ("PNG", "TIFF", "BMP", "WEBP"):
        np.testing.assert_array_equal(read_image(path), PIXELS)


def foreign() -> dict[str, tuple[bytes, str]]:
    colors = np.ones((8, 8, 3), np.float32)
    done, radiance = cv2.imencode(".hdr", colors)
    assert done
    pillows = {kind: encode(kind) for kind in ("EPS", "PPM", "TGA", "SGI", "ICO")}
    exr = b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(50)
    return {
        "Radiance": (radiance.tobytes(), "it is a Radiance HDR image"),
        "OpenEXR": (exr, "it is an OpenEXR image"),
        "EPS": (pillows["EPS"], "it is a PostScript file"),
        "PPM": (pillows["PPM"], "it is a portable any map"),
        "SGI": (pillows["SGI"], "it is an SGI image"),
        "ICO": (pillows["ICO"], "it is an icon"),
        "TGA": (pillows["TGA"], "its content has no known image format"),
        "PSD": (b"8BPS\0\1" + bytes(30), "it is a Photoshop image"),
        "FITS": (b"SIMPLE  =                    T", "it is a FITS image"),
        "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "it is a JPEG 2000 image"),
        "HEIF": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(9), "it is a HEIF image"),
        "MP4": (b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + bytes(9), "it is an MP4"),
        "empty": (b"", "it is empty"),
    }


@pytest.mark.parametrize("kind", list(foreign()))
def test_other_formats_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    content, reason = foreign()[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=rf"a\.jpg is not an image that can be read: {reason}"):
            read(path)
    with pytest.raises(OSError, match=reason), open_image(path):
        pass
    assert try_read_image_size(path) is None


def declared(kind: str, size: tuple[int, int]) -> bytes:
    """A small image whose header declares another size."""
    content = bytearray(encode(kind))
    height, width = size
    if kind == "PNG":
        return tiny_png(size, 16)
    if kind == "GIF":
        struct.pack_into("<HH", content, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", content, 18, width, -height)
    elif kind == "JPEG":
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, height, width)
    else:
        assert content[12:16] == b"VP8L"
        struct.pack_into("<I", content, 21, (width - 1) | (height - 1) << 14)
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_declared_sizes_are_checked_first(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (16000, 15000) if kind == "WEBP" else (21000, 20000)
    path = tmp_path / "a.png"
    path.write_bytes(declared(kind, size))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    expected = f"a.png has {size[1]} x {size[0]} pixels, more than the limit of 178,956,970"
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=expected):
            read(path)


def test_webp_with_alpha_or_loss_declares_its_size(tmp_path: Path) -> None:
    for name, options in (("lossy", {}), ("alpha", {"exif": Image.Exif()})):
        stored = Image.fromarray(PIXELS).convert("RGBA" if name == "alpha" else "RGB")
        stored.save(tmp_path / f"{name}.webp", **options)
        start = (tmp_path / f"{name}.webp").read_bytes()[12:16]
        assert start == (b"VP8X" if name == "alpha" else b"VP8 ")
        with (
            pytest.raises(OversizedImageError, match=r"it has 7 x 5 pixels .* limit of 34"),
            open_image(tmp_path / f"{name}.webp", 34),
        ):
            pass
        with open_image(tmp_path / f"{name}.webp", 35) as opened:
            assert opened.size == (7, 5)


def test_png_too_short_for_its_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """13,000 x 13,000 pixels are allowed, but 75 bytes cannot hold them."""
    path = tmp_path / "a.png"
    path.write_bytes(tiny_png((13_000, 13_000), 16))
    message = r"truncated: it has 75 bytes, too few for the 13000 x 13000 pixels"
    with pytest.raises(DataError, match=message):
        decode_image(path)
    with pytest.raises(OSError, match=message), open_image(path):
        pass
    black = tmp_path / "black.png"  # as small as deflate makes it
    Image.new("1", (13_000, 13_000)).save(black)
    with open_image(black) as opened:
        assert opened.size == (13_000, 13_000)


def test_tiles_larger_than_any_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.zeros((20, 20), np.uint16)
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib")
    assert read_image(path, 1).shape == (20, 20, 1)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("TileWidth", "TileLength"):
            tiff.pages.first.tags[tag].overwrite(40_000)
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=r"a\.tif has tiles of 40000 x 40000 pixels"):
            read(path)


LIMITED = """
import resource, sys
from pathlib import Path
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.errors import DataError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
for name in sys.argv[1:]:
    try:
        decode_image(Path(name))
    except DataError as error:
        print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    """A Radiance file, and a PNG that Pillow refuses and OpenCV would decode, named .jpg."""
    radiance = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 30000 +X 30000\n" + bytes(1000)
    bombs: dict[str, Any] = {
        "radiance.jpg": radiance,
        "checksum.jpg": tiny_png((20_000, 20_000), 8, checksum=1),
        "small_checksum.jpg": tiny_png((13_000, 13_000), 16, checksum=1),
        "deep.jpg": tiny_png((20_000, 20_000), 16),
        "allowed.jpg": tiny_png((13_000, 13_000), 16),
        "gif.jpg": declared("GIF", (40_000, 40_000)),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in bombs]
    root = str(ROOT)
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        timeout=60,
    )
    assert child.returncode == 0, child.stderr
    lines = child.stdout.splitlines()
    assert [name for name, line in zip(bombs, lines, strict=True) if name not in line] == []
    assert "a Radiance HDR image" in lines[0]
    for line in (lines[1], lines[3]):
        assert "20000 x 20000 pixels, more than the limit of 178,956,970" in line
    for line in (lines[2], lines[4]):
        assert "too few for the 13000 x 13000 pixels" in line
