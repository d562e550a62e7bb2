"""Small files that declare large images are refused; no blank image that an encoder wrote is."""

from __future__ import annotations

import io
import itertools
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from resnet_tasks.data.coco.semantic_maps import read_map_values
from resnet_tasks.data.images.channels import decode_pillow_image
from resnet_tasks.data.images.declared_sizes import (
    MAX_PAGES,
    DeclaredSize,
    check_tiff_length,
    measure_declared_size,
)
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_files import (
    open_image,
    read_image_size,
    try_read_image_size,
)
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.data.images.regions import open_regions
from resnet_tasks.data.images.size_limits import MAX_CHUNKS, MAX_SCANS, MAX_SEGMENTS, MAX_STRAY
from resnet_tasks.errors import DataError

SIDE = 13_000
BLANK = 4_200
"""Pixels of a side that make more than 16 MiB of one byte per pixel."""


def tiff(
    compression: int, data: bytes = bytes(20), *, count: int | None = None, **tags: int
) -> bytes:
    """A TIFF of one strip that declares 13,000 x 13,000 pixels."""
    values = {256: SIDE, 257: SIDE, 258: tags.get("bits", 8), 259: compression}
    values |= {262: tags.get("photometric", 1), 273: 8, 277: tags.get("samples", 1), 278: SIDE}
    values[279] = len(data) if count is None else count
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    data += bytes(len(data) % 2)
    start = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return start + struct.pack("<H", len(values)) + entries + bytes(4)


SMALL_SIDE = (struct.pack("<I", SIDE), struct.pack("<I", 8))


def encode(mode: str, kind: str, **options: Any) -> bytearray:
    stream = io.BytesIO()
    Image.new(mode, (8, 8)).save(stream, kind, **options)
    return bytearray(stream.getvalue())


def enlarged_jpeg(*, progressive: bool) -> bytes:
    content = encode("RGB", "JPEG", progressive=progressive)
    place = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    struct.pack_into(">HH", content, place + 5, SIDE, SIDE)
    return bytes(content)


def enlarged_bmp(**fields: int) -> bytes:
    content = encode("RGB", "BMP")[:54]
    struct.pack_into("<ii", content, 18, SIDE, SIDE)
    struct.pack_into("<HI", content, 28, fields.get("bits", 24), fields.get("compression", 0))
    return bytes(content)


SMALL: dict[str, bytes] = {
    "uncompressed": tiff(1),
    "CCITT": tiff(4, bits=1),
    "CCITT with a false count": tiff(4, bits=1, count=1 << 20),
    "LZW": tiff(5),
    "deflate": tiff(8),
    "deflate, color": tiff(8, samples=3, photometric=2),
    "no data": tiff(8, count=0),
    "LZMA": tiff(34925),
    "zstd": tiff(50000),
    "WebP": tiff(50001, bytes(encode("RGB", "WEBP", lossless=True)), samples=3, photometric=2),
    "JPEG in TIFF": tiff(7),
    "JPEG": enlarged_jpeg(progressive=False),
    "progressive JPEG": enlarged_jpeg(progressive=True),
    "BMP": enlarged_bmp(),
    "BMP in runs": enlarged_bmp(bits=8, compression=1),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_files_are_refused_before_they_are_decoded(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(SMALL[name])
    length = len(SMALL[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = rf"has {length:,} bytes, too few for the 13000 x 13000 pixels"
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=message):
            read(path)
    with pytest.raises(DataError, match=r"cannot be read|is stored as"):
        read_label_map(path)
    assert try_read_image_size(path, decode=True) is None
    if name not in ("LZMA", "zstd", "WebP"):  # which Pillow may not know
        with pytest.raises(OSError, match=message), open_image(path):
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_strips_longer_than_the_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 30), np.uint16), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags["StripByteCounts"].overwrite(4_000_000_000)
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match="but declares a strip or tile of 4,000,000,000"):
            read(path)


def blank_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Blank images by Pillow, OpenCV and tifffile, as small as each makes them."""
    path = folder / "a"
    size = (BLANK, BLANK)
    libtiff = ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd", "jpeg"]
    strips: list[dict[str, Any]] = [{}, {"strip_size": 1 << 30}]
    fax = itertools.product(("1",), ("group3", "group4", "tiff_ccitt"), strips)
    for mode, compression, options in (*itertools.product("L", libtiff, strips), *fax):
        try:
            Image.new(mode, size).save(path, "TIFF", compression=compression, **options)
        except OSError:  # not in this build
            continue
        yield f"Pillow, {compression}", path
    for mode, options in itertools.product(("L", "RGB"), ({}, {"progressive": True})):
        Image.new(mode, size).save(path, "JPEG", quality=1, optimize=True, **options)
        yield f"Pillow, JPEG, {mode} {options}", path
    for mode, kind in itertools.product(("1", "L"), ("PNG", "BMP", "GIF")):
        Image.new(mode, size).save(path, kind)
        yield f"Pillow, {kind}, {mode}", path
    if features.check("webp"):
        Image.new("RGB", size).save(path, "WEBP", lossless=True)
        yield "Pillow, WebP", path
    for suffix in (".bmp", ".png", ".jpg", ".tif"):
        named = folder / f"a{suffix}"
        cv2.imwrite(str(named), np.zeros(size, np.uint8))
        yield f"OpenCV, {suffix}", named
    tilings: list[dict[str, Any]] = [{}, {"tile": (256, 256)}, {"rowsperstrip": BLANK}]
    for coding, tiling, kind in itertools.product((None, "zlib", "lzma"), tilings, (bool, "u2")):
        pixels = np.zeros(size, kind)
        tifffile.imwrite(path, pixels, photometric="minisblack", compression=coding, **tiling)
        yield f"tifffile, {coding}, {kind} {tiling}", path
    tifffile.imwrite(path, np.zeros((2, *size), np.uint8), imagej=True)
    yield "ImageJ", path


@pytest.mark.slow
def test_blank_images_of_every_encoder_are_read(tmp_path: Path) -> None:
    count = 0
    for name, path in blank_files(tmp_path):
        assert decode_image(path).pixels.shape[:2] == (BLANK, BLANK), name
        count += 1
    assert count >= 45


@pytest.mark.parametrize("compression", ["group4", "tiff_adobe_deflate"])
def test_blank_images_of_13000_pixels_hold_their_size(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.new("1", (SIDE, SIDE)).save(path, compression=compression)
    with tifffile.TiffFile(path) as file:
        check_tiff_length(file)
    # A bit for each of the rows.
    assert compression != "group4" or path.stat().st_size > SIDE / 8


def test_absent_tiles_are_read_as_zero(tmp_path: Path) -> None:
    """GDAL writes no tile where all is 0."""
    path = tmp_path / "a.tif"
    pixels = np.ones((BLANK, BLANK), np.uint16)
    tifffile.imwrite(path, pixels, tile=(256, 256), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        for name in ("TileByteCounts", "TileOffsets"):
            tags[name].overwrite((0,) * tags[name].count)
    assert not decode_image(path).pixels.any()


def test_jpegs_are_measured_behind_thumbnails_and_stray_bytes() -> None:
    """The frame header of a thumbnail lies inside a segment."""
    thumbnail = bytes(encode("RGB", "JPEG"))
    content = enlarged_jpeg(progressive=False)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail
    for extra in (b"", segment, b"\0\1", b"\xff\xff"):
        stream = io.BytesIO(content[:2] + extra + content[2:])
        declared = measure_declared_size(stream, b"", "JPEG", None)
        # 13,000^2 pixels of three bytes; 1,024 pixels in a byte.
        assert declared == DeclaredSize((SIDE, SIDE), 507_000_000, 165_039)
        assert stream.tell() == 0
    assert measure_declared_size(io.BytesIO(content[:40]), b"", "JPEG", None) is None


def test_label_maps_of_another_size_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (50, 40)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(
        DataError, match=r"a\.png is 50 x 40, but its image is 8 x 6 \(width x height\)"
    ):
        read_map_values(path, (6, 8))


def test_positions_in_a_tiff_are_no_part_of_its_mode(tmp_path: Path) -> None:
    """Pillow names an offset next to the mode; one with the digits 16 is not a depth."""
    path, num_read = tmp_path / "a.tif", 0
    for length in range(140, 180):
        Image.new("RGB", (4, length)).save(path, compression="packbits")
        num_read += decode_image(path).pixels.shape == (length, 4, 3)
    assert num_read == 40


def make_scans(number: int, *, thumbnails: int = 0) -> bytes:
    """A JPEG whose last scan is repeated, and that has further scans inside a segment."""
    content = bytes(encode("RGB", "JPEG", progressive=True))
    start = content.rindex(b"\xff\xda")
    last = content[start:-2]
    present = content.count(b"\xff\xda")
    hidden = last * thumbnails
    segment = b"\xff\xef" + struct.pack(">H", len(hidden) + 2) + hidden
    return content[:2] + segment + content[2:-2] + last * (number - present) + content[-2:]


@pytest.mark.parametrize(("number", "thumbnails"), [(MAX_SCANS, 0), (10, 500)])
def test_jpegs_of_up_to_100_scans_are_decoded(number: int, thumbnails: int, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(make_scans(number, thumbnails=thumbnails))
    assert decode_image(file).pixels.shape == (8, 8, 3)
    assert read_image_size(file, decode=True) == (8, 8)


def test_jpegs_of_more_than_100_scans_are_refused(tmp_path: Path) -> None:
    """One of 5,000 scans of 4 megapixels takes two minutes."""
    file = tmp_path / "a.jpg"
    file.write_bytes(make_scans(MAX_SCANS + 1))
    message = "it is a JPEG of more than 100 scans, the limit"
    with pytest.raises(DataError, match=rf"a\.jpg cannot be read: {message}"):
        decode_image(file)
    with pytest.raises(OSError, match=message):
        read_image_size(file, decode=True)
    with Image.open(file) as image, pytest.raises(DataError, match=f"x cannot be .* {message}"):
        decode_pillow_image(image, "x")


def test_tiffs_with_jpegs_of_more_than_100_scans_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    scans = make_scans(MAX_SCANS + 1)
    file.write_bytes(tiff(7, scans, samples=3, photometric=2).replace(*SMALL_SIDE))
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=r"a\.tif cannot .* a JPEG of more than 100"):
            read(file)
    with pytest.raises(OSError, match="more than 100 scans"):
        read_image_size(file, decode=True)
    assert read_image_size(file) == (8, 8)


def test_tiles_with_jpegs_of_more_than_100_scans_are_refused(tmp_path: Path) -> None:
    """Tiles are read one by one; the scans of each are counted before it is decoded."""
    file = tmp_path / "a.tif"
    scans = make_scans(MAX_SCANS + 1)
    values = {256: 16, 257: 16, 258: 8, 259: 7, 262: 1, 277: 1, 322: 16, 323: 4}
    tags = {tag: (1, value) for tag, value in values.items()}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {324: (4, start), 325: (4, start + 16)}
    entries = b"".join(struct.pack("<HHII", tag, 4, *value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    offsets = struct.pack("<8I", *[start + 32] * 4, *[len(scans)] * 4)
    file.write_bytes(content + offsets + scans)
    with pytest.raises(DataError, match=r"a\.tif cannot .* a JPEG of more than 100"):
        open_regions(file)


def insert_chunks(number: int, kind: bytes, content: bytes = b"") -> bytes:
    """A PNG with empty chunks before its pixels."""
    png = bytes(encode("RGB", "PNG"))
    chunk = struct.pack(">I", len(content)) + kind + content
    chunk += struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk * number + png[33:]


@pytest.mark.parametrize(
    "content",
    [
        insert_chunks(MAX_CHUNKS, b"abCd"),
        insert_chunks(MAX_CHUNKS, b"tEXt", b"a\0b"),
        insert_chunks(250_000, b"IDAT"),
    ],
)
def test_pngs_of_many_chunks_are_refused(content: bytes, tmp_path: Path) -> None:
    """One of a million chunks takes six seconds."""
    file = tmp_path / "a.png"
    file.write_bytes(content)
    message = "it is a PNG of more than 250,000 chunks of pixels or 1,000 others, the limit"
    for read in (decode_image, read_label_map, open_regions):
        with pytest.raises(DataError, match=message):
            read(file)
    with pytest.raises(OSError, match=message):
        read_image_size(file)


@pytest.mark.parametrize(("number", "kind"), [(MAX_CHUNKS - 2, b"abCd"), (5000, b"IDAT")])
def test_pngs_of_fewer_chunks_are_decoded(number: int, kind: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(insert_chunks(number, kind))  # and the first and last chunks
    assert decode_image(file).pixels.shape == (8, 8, 3)


def insert_bytes(content: bytes) -> bytes:
    """A JPEG with bytes before its second segment."""
    jpeg = bytes(encode("RGB", "JPEG"))
    place = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:place] + content + jpeg[place:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xe5\0\3a" * (MAX_SEGMENTS + 1), "more than 1,000 segments before its pixels"),
        (b"\xff\xfe\0\3a" * (MAX_SEGMENTS + 1), "more than 1,000 segments before its pixels"),
        (b"\xff" * (MAX_STRAY + 1), "more than 65,536 bytes between its segments"),
        (bytes(MAX_STRAY + 1), "more than 65,536 bytes between its segments"),
    ],
)
def test_jpegs_with_long_headers_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """One with 60 MB of stray bytes takes 80 seconds."""
    file = tmp_path / "a.jpg"
    file.write_bytes(insert_bytes(content))
    for read in (decode_image, open_regions):
        with pytest.raises(DataError, match=message):
            read(file)
    with pytest.raises(OSError, match=message):
        read_image_size(file)


@pytest.mark.parametrize("content", [b"\xff\xe5\0\3a" * 900, b"\xff" * 60_000])
def test_jpegs_with_shorter_headers_are_decoded(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(insert_bytes(content))
    assert decode_image(file).pixels.shape == (8, 8, 3)


def test_segments_between_scans_are_counted(tmp_path: Path) -> None:
    content = make_scans(MAX_SCANS)
    start = content.rindex(b"\xff\xda")
    thumbnail = b"\xff\xef\0\6\xff\xda\xff\xda"
    file = tmp_path / "a.jpg"
    file.write_bytes(content[:start] + thumbnail * 3 * MAX_SEGMENTS + content[start:])
    with pytest.raises(DataError, match="it is a JPEG of more than 100 scans"):
        decode_image(file)


def make_pages(number: int, *, is_cyclic: bool = False) -> bytes:
    """A TIFF of pages of one pixel."""
    tags = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 4, 277: 1, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    page = struct.pack("<H", len(tags)) + entries
    length = len(page) + 4
    offsets = [8 + i * length for i in range(1, number)] + [8 if is_cyclic else 0]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", o) for o in offsets)


@pytest.mark.parametrize(("number", "is_cyclic"), [(MAX_PAGES + 1, False), (300, True)])
def test_tiffs_of_more_than_1000_pages_are_refused(
    number: int, is_cyclic: bool, tmp_path: Path
) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(make_pages(number, is_cyclic=is_cyclic))
    for read in (decode_image, read_label_map, open_regions):
        with pytest.raises(
            DataError, match=r"a\.tif .* a TIFF of more than 1,000 pages, the limit"
        ):
            read(file)
    with pytest.raises(OSError, match="more than 1,000 pages"):
        read_image_size(file)


def test_tiffs_of_up_to_1000_pages_are_opened(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(make_pages(MAX_PAGES))
    with pytest.raises(DataError, match=r"a\.tif has 1000 channels .* more than the limit of 64"):
        decode_image(file)


def test_tiffs_with_many_reduced_versions_are_refused(tmp_path: Path) -> None:
    content = tiff(1, bytes(8), count=8)
    number = MAX_PAGES + 1
    place = len(content) - 4 - 12 * 9
    entries = content[place + 2 - 2 : -4]
    sub_images = struct.pack("<HHII", 330, 4, number, len(content) + 12)
    file = tmp_path / "a.tif"
    directory = struct.pack("<H", 10) + entries + sub_images + bytes(4)
    file.write_bytes(content[: place - 2] + directory + struct.pack("<I", 8) * number)
    with pytest.raises(DataError, match=r"1,001 reduced versions of its image, more than .* 1,000"):
        decode_image(file)


def test_the_images_of_an_animation_are_not_counted(tmp_path: Path) -> None:
    """Pillow reads a whole GIF to count them; a file of 17 MB may hold a million."""
    first = Image.new("L", (4, 4))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (4, 4), 9)])
    with pytest.raises(DataError, match=r"a\.gif is an animation of several images"):
        decode_image(tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"a\.gif holds several images \(pages or frames\)"):
        read_label_map(tmp_path / "a.gif")
    first.save(tmp_path / "one.gif")
    assert read_label_map(tmp_path / "one.gif").shape == (4, 4)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_pngs_with_large_compressed_metadata_are_refused(kind: bytes, tmp_path: Path) -> None:
    content = bytes(encode("RGB", "PNG"))
    chunk = kind + b"Raw profile type exif\0\0" + zlib.compress(bytes(2**20 + 1), 9)
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    file = tmp_path / "a.png"
    file.write_bytes(content[:33] + framed + content[33:])
    with pytest.raises(DataError, match=r"a text or the color profile exceeds .* 1,048,576 bytes"):
        decode_image(file)
