"""Decoding at full precision: any depth, any number of channels, from every kind of file."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_tasks.data.images import decoding
from resnet_tasks.data.images.decoding import decode_image, read_image
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.errors import DataError

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
DEEP_GRAY = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
DEEP_COLOR = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
TURNED = Image.Exif()
TURNED[274] = 6  # to be shown turned by 90 degrees clockwise


def saved(folder: Path, image: Image.Image, name: str, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_color_is_exact_and_gray_is_repeated(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOR), "a.png")
    assert np.array_equal(read_image(path), COLOR)
    gray = saved(tmp_path, Image.fromarray(COLOR[:, :, 0]), "g.png")
    assert np.array_equal(read_image(gray, 1)[:, :, 0], COLOR[:, :, 0])
    assert np.array_equal(read_image(gray), np.repeat(COLOR[:, :, :1], 3, axis=2))
    assert read_image(path, 1).shape == (5, 7, 1)


def test_alpha_is_dropped_unless_four_channels_are_wanted(tmp_path: Path) -> None:
    stored = np.concatenate((COLOR, COLOR[:, :, :1]), axis=2)
    path = saved(tmp_path, Image.fromarray(stored), "a.png")
    assert np.array_equal(read_image(path), COLOR)
    assert np.array_equal(read_image(path, 4), stored)


def test_palette_means_its_colors(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([1, 0])
    path = saved(tmp_path, image, "p.png")
    assert read_image(path).tolist() == [[[200, 100, 50], [10, 20, 30]]]
    clear = saved(tmp_path, image, "t.png", transparency=bytes([0, 255]))
    assert read_image(clear).tolist() == [[[200, 100, 50], [10, 20, 30]]]
    assert read_image(clear, 4).tolist() == [[[200, 100, 50, 255], [10, 20, 30, 0]]]


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    image = read_image(saved(tmp_path, red, "a.jpg", quality=95))
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), DEEP_GRAY)
    image = read_image(path, 1)
    assert image.dtype == np.uint16
    assert np.array_equal(image[:, :, 0], DEEP_GRAY)
    assert np.array_equal(read_image(path, 3), np.repeat(DEEP_GRAY[:, :, None], 3, axis=2))
    cv2.imwrite(str(path), DEEP_COLOR[:, :, ::-1])
    image = read_image(path)
    assert image.dtype == np.uint16
    assert np.array_equal(image, DEEP_COLOR)


def test_equal_deep_channels_keep_their_value_as_luminance(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.repeat(DEEP_GRAY[:, :, None], 3, axis=2))
    assert np.array_equal(read_image(path, 1)[:, :, 0], DEEP_GRAY)


def test_float_tiff_is_kept(tmp_path: Path) -> None:
    stored = RNG.random((5, 7)).astype(np.float32)
    path = saved(tmp_path, Image.fromarray(stored), "a.tif")
    assert np.array_equal(read_image(path, 1)[:, :, 0], stored)


def test_jpeg_is_turned_upright(tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255  # left half white: at the top once turned clockwise
    path = saved(tmp_path, Image.fromarray(stored), "a.jpg", quality=95, exif=TURNED)
    image = read_image(path)
    assert image.shape == (32, 16, 3)
    assert image[:14].min() > 240
    assert image[18:].max() < 15


def test_deep_images_are_turned_upright(tmp_path: Path) -> None:
    gray = saved(tmp_path, Image.fromarray(DEEP_GRAY), "g.png", exif=TURNED)
    assert np.array_equal(read_image(gray, 1)[:, :, 0], np.rot90(DEEP_GRAY, -1))
    path = tmp_path / "c.png"
    cv2.imwrite(str(path), DEEP_COLOR[:, :, ::-1])
    exif = TURNED.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + exif
    chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    stored = path.read_bytes()
    path.write_bytes(stored[:33] + chunk + stored[33:])  # behind signature and header
    assert np.array_equal(read_image(path), np.rot90(DEEP_COLOR, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_as_pillow_turns_it(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = saved(tmp_path, Image.fromarray(COLOR), "a.png", exif=exif)
    assert np.array_equal(decoding._apply_orientation(COLOR, orientation), read_image(path))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_truncated_image_is_refused(tmp_path: Path, name: str) -> None:
    noise = RNG.integers(0, 256, (100, 100, 3)).astype(np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{name} cannot be read: .*truncated"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        read_image(path)


def soft(height: int, width: int, channels: int) -> Image.Image:
    """Neighboring pixels resemble one another, as in photographs: chroma is interpolated."""
    coarse = RNG.integers(0, 256, (height // 4 + 2, width // 4 + 2, channels)).astype(np.uint8)
    grown = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(grown)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(1, 1), (7, 15), (64, 48), (101, 203)])
def test_jpeg_is_what_pillow_decodes(
    tmp_path: Path, size: tuple[int, int], subsampling: str, options: dict[str, Any]
) -> None:
    color = saved(tmp_path, soft(*size, 3), "a.jpg", subsampling=subsampling, **options)
    gray = saved(tmp_path, soft(*size, 1), "g.jpg", **options)
    for path, layout in ((color, "color"), (gray, "gray")):
        with Image.open(path) as image:
            assert decoding._decode_jpeg(image) is not None
            expected = np.asarray(image).reshape(*size, -1)
        stored = decode_image(path)
        assert stored.layout == layout
        np.testing.assert_array_equal(stored.pixels, expected)


def test_jpeg_with_something_behind_it_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, soft(64, 48, 3), "a.jpg")
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"\0" * 40)
    np.testing.assert_array_equal(read_image(path), expected)


def test_jpeg_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also where what is left happens to end like a whole one: that of its preview."""
    preview = tmp_path / "preview.jpg"
    soft(16, 16, 3).save(preview)
    exif = Image.Exif()
    exif[37500] = preview.read_bytes()  # the maker's note, where cameras keep such things
    path = saved(tmp_path, soft(64, 48, 3), "a.jpg", exif=exif)
    whole = path.read_bytes()
    ends = [i + 2 for i in range(len(whole)) if whole[i : i + 2] == b"\xff\xd9"]
    assert len(ends) == 2
    for end in (*ends[:-1], *range(0, len(whole) - 2, 37)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"a\.jpg"):
            read_image(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_jpeg_is_refused_or_what_pillow_makes_of_it(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Refused where Pillow refuses it or pixels are missing, else the same; nothing printed."""
    rng = np.random.default_rng(seed)
    path = saved(tmp_path, soft(64, 48, 3), "a.jpg", progressive=bool(seed % 2))
    damaged = bytearray(path.read_bytes())
    at = int(rng.integers(2, len(damaged) - 2))
    if seed % 3:
        damaged[at] = int(rng.integers(256))
    else:
        del damaged[at : at + int(rng.integers(1, 60))]
    path.write_bytes(damaged)

    def outcome() -> str | bytes:
        try:
            return read_image(path).tobytes()
        except DataError as error:
            return str(error)

    mine = outcome()
    monkeypatch.setattr(decoding, "_decode_jpeg", lambda _: None)
    pillow = outcome()
    if mine != pillow:
        assert str(mine).endswith(("ends before its last pixel", "compressed pixels are damaged"))
    assert capfd.readouterr() == ("", "")


def test_jpeg_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """OpenCV finds its way through such files, and fills with gray what it does not find."""
    path = saved(tmp_path, soft(64, 48, 3), "a.jpg")
    content = bytearray(path.read_bytes())
    content[3] = 1  # its first segment is of no known kind
    path.write_bytes(content)
    assert cv2.imread(str(path)) is not None
    with pytest.raises(DataError, match=r"a\.jpg cannot be read: its JPEG header is damaged"):
        read_image(path)


def test_missing_image_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png does not exist"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path)


def test_large_images_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, Image.fromarray(COLOR), "a.png")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 34)
    with pytest.raises(DataError, match=r"7 x 5 pixels, more than the limit of 34; cut it"):
        read_image(path)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 35)
    assert read_image(path).shape == (5, 7, 3)


def test_pillows_own_limit_is_said_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, Image.fromarray(COLOR), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # of Pillow: ours holds
    assert read_image(path).shape == (5, 7, 3)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 10)  # 35 pixels: Pillow refuses to open it
    with pytest.raises(DataError, match="cut it into several files"):
        read_image(path)


def test_lines_too_long_for_the_decoder_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "long.png"
    Image.new("1", (1 << 26, 1)).save(file)
    with pytest.raises(
        DataError, match=r"width of 67,108,864 pixels exceeds the limit of 33,554,432"
    ):
        decode_image(file)


def test_other_channels_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(COLOR), "a.png")
    with pytest.raises(DataError, match=r"a\.png has 3 channel.*channels=5; set data.channels=3"):
        read_image(path, 5)


def test_real_photo_is_what_pillow_decodes(shared_data: Path) -> None:
    path = min((shared_data / "coco_tiny/val2017").glob("*.jpg"))
    with Image.open(path) as image:
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


# --- Many channels, deep or float ----------------------------------------------------------------


def stack(channels: int, kind: str) -> Any:
    """`(5, 7, channels)` of random values over the whole range of a type."""
    values = np.random.default_rng(channels).random((5, 7, channels))
    return (values * (1 if kind == "float32" else np.iinfo(kind).max)).astype(kind)


def write_tiff(path: Path, pixels: Any, **options: Any) -> Path:
    photometric = "rgb" if pixels.shape[2] == 3 else "minisblack"
    is_gray = pixels.shape[2] == 1
    layout = {"photometric": photometric, "planarconfig": None if is_gray else "contig"} | options
    tifffile.imwrite(path, pixels[:, :, 0] if is_gray else pixels, **layout)
    return path


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "int16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_tiff_of_any_depth_and_bands(
    tmp_path: Path, channels: int, kind: str, compression: str | None
) -> None:
    pixels = stack(channels, kind)
    read = read_image(write_tiff(tmp_path / "a.tif", pixels, compression=compression), channels)
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, pixels)
    assert try_read_image_size(tmp_path / "a.tif") == (5, 7)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float64", "int16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_numpy_array_of_any_depth_and_bands(tmp_path: Path, channels: int, kind: str) -> None:
    pixels = stack(channels, "float32" if kind == "float64" else kind).astype(kind)
    np.save(tmp_path / "a.npy", pixels)
    read = read_image(tmp_path / "a.npy", channels)
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, pixels)
    assert read.flags.writeable
    assert try_read_image_size(tmp_path / "a.npy") == (5, 7)
    if channels == 1:
        np.save(tmp_path / "flat.npy", pixels[:, :, 0])
        assert np.array_equal(read_image(tmp_path / "flat.npy", 1), pixels)


@pytest.mark.parametrize("metadata", [{}, None, {"axes": "CYX"}])
def test_pages_are_channels_in_their_order(tmp_path: Path, metadata: Any) -> None:
    pages = np.moveaxis(stack(7, "uint16"), 2, 0)
    path = tmp_path / ("a.ome.tif" if metadata else "a.tif")
    tifffile.imwrite(path, pages, photometric="minisblack", metadata=metadata)
    assert np.array_equal(read_image(path, 7), stack(7, "uint16"))
    with pytest.raises(DataError, match=r"7 channel.* in 7 pages \(bands\).*channels=3; set .*=7"):
        read_image(path, 3)


def test_thumbnail_beside_the_image_is_no_channel(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(DEEP_GRAY, photometric="minisblack", metadata=None)
        writer.write(DEEP_GRAY[:2, :3], photometric="minisblack", subfiletype=1, metadata=None)
    assert np.array_equal(read_image(tmp_path / "a.tif", 1)[:, :, 0], DEEP_GRAY)


def test_images_of_different_sizes_in_one_file_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(DEEP_GRAY, photometric="minisblack", metadata=None)
        writer.write(DEEP_GRAY[:4, :6], photometric="minisblack", metadata=None)
    with pytest.raises(DataError, match=r"a\.tif holds 2 images of different kinds .*\(5, 7\)"):
        read_image(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiff_is_turned_upright(
    tmp_path: Path, orientation: int, compression: str | None
) -> None:
    """Pillow garbles such files where they are not compressed."""
    tag = (274, "H", 1, orientation, True)
    for channels in (1, 5):
        pixels = stack(channels, "uint16")
        path = tmp_path / f"{channels}.tif"
        write_tiff(path, pixels, compression=compression, extratags=[tag])
        upright = decoding._apply_orientation(pixels, orientation)
        assert np.array_equal(read_image(path, channels), upright)
        assert try_read_image_size(path) == upright.shape[:2]


def test_white_is_zero_where_the_tiff_says_so(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", DEEP_GRAY[:, :, None], photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "a.tif", 1)[:, :, 0], 65535 - DEEP_GRAY)


def test_planes_behind_one_another_are_colors(tmp_path: Path) -> None:
    planes = np.moveaxis(DEEP_COLOR, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_image(tmp_path / "a.tif"), DEEP_COLOR)
    assert read_image(tmp_path / "a.tif", 1).shape == (5, 7, 1)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_a_fourth_band_is_dropped_only_where_it_is_marked_as_alpha(
    tmp_path: Path, kind: str
) -> None:
    pixels = stack(4, kind)
    alpha = write_tiff(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert np.array_equal(read_image(alpha), pixels[:, :, :3])
    assert np.array_equal(read_image(alpha, 4), pixels)
    infrared = write_tiff(tmp_path / "b.tif", pixels, photometric="rgb", extrasamples=[0])
    assert np.array_equal(read_image(infrared, 4), pixels)
    with pytest.raises(DataError, match=r"b\.tif has 4 channel.*\(bands\).*set data.channels=4"):
        read_image(infrared)


def test_deep_png_with_alpha(tmp_path: Path) -> None:
    pixels = stack(4, "uint16")
    cv2.imwrite(str(tmp_path / "a.png"), pixels[:, :, [2, 1, 0, 3]])
    assert np.array_equal(read_image(tmp_path / "a.png", 4), pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels[:, :, :3])


def test_deep_gray_png_with_alpha(tmp_path: Path) -> None:
    pixels = stack(2, "uint16")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, 4, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    assert np.array_equal(read_image(path, 2), pixels)
    assert np.array_equal(read_image(path, 1), pixels[:, :, :1])
    assert np.array_equal(read_image(path, 3), np.repeat(pixels[:, :, :1], 3, axis=2))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_tiff_as_opencv_writes_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """LZW, which tifffile alone does not decode."""
    pixels = np.random.default_rng(1).integers(0, 65536, shape).astype(np.uint16)
    stored = pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: shape[2]]]
    cv2.imwrite(str(tmp_path / "a.tif"), stored)
    channels = 1 if pixels.ndim == 2 else shape[2]
    assert np.array_equal(read_image(tmp_path / "a.tif", channels), pixels.reshape(5, 7, channels))


def test_compression_that_cannot_be_decoded_names_the_remedy(tmp_path: Path) -> None:
    page = Image.fromarray(DEEP_GRAY)
    page.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=[page])
    with pytest.raises(DataError, match=r"a\.tif is a TIFF of 1 .* 2 page.*LZW.*imagecodecs"):
        read_image(tmp_path / "a.tif", 2)


def test_eight_bit_luminance_is_pillows(shared_data: Path) -> None:
    path = min((shared_data / "coco_tiny/val2017").glob("*.jpg"))
    with Image.open(path) as image:
        assert np.array_equal(read_image(path, 1)[:, :, 0], np.asarray(image.convert("L")))


def test_real_nuclei_have_alpha(shared_data: Path) -> None:
    path = min((shared_data / "dsb2018/stage1_train").glob("*/images/*.png"))
    stored = decode_image(path)
    assert (stored.layout, stored.pixels.shape[2]) == ("color and alpha", 4)
    assert np.array_equal(read_image(path), stored.pixels[:, :, :3])


def test_arrays_that_are_no_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3, 4, 5)))
    with pytest.raises(DataError, match=r"a\.npy holds float64 of shape \(2, 3, 4, 5\); an image"):
        read_image(path)
    np.save(path, np.asarray([{"code": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy cannot be read: .*Python objects"):
        read_image(path)
    np.save(path, np.zeros((5, 300, 400)))
    with pytest.raises(DataError, match=r"400 channels of 300 x 5 .*channel axis must be the last"):
        read_image(path, 5)
    np.save(path, stack(3, "uint16"))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"a\.npy cannot be read"):
        read_image(path)
    assert try_read_image_size(path) is None


def test_channels_of_arrays_are_neither_mixed_nor_dropped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", stack(3, "uint16"))
    with pytest.raises(DataError, match=r"has 3 channel.*data.channels=1; set data.channels=3"):
        read_image(tmp_path / "a.npy", 1)


@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_deep_files_are_limited_too(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, DEEP_COLOR)
    else:
        write_tiff(path, DEEP_COLOR)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 34)
    with pytest.raises(DataError, match=r"7 x 5 pixels, more than the limit of 34; cut it"):
        read_image(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_deep_tiff_is_refused(tmp_path: Path, compression: str | None) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64, 5)).astype(np.uint16)
    path = write_tiff(tmp_path / "a.tif", pixels, compression=compression)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"a\.tif"):
        read_image(path, 5)


def test_threads_restore_the_log_level_of_opencv() -> None:
    level = cv2.utils.logging.getLogLevel()
    content = cv2.imencode(".png", np.zeros((200, 200, 3), np.uint16))[1].tobytes()
    with ThreadPoolExecutor(8) as pool:
        shapes = {
            array.shape
            for array in pool.map(decoding._decode_with_opencv, [content] * 100)
            if array is not None
        }
    assert shapes == {(200, 200, 3)}
    assert cv2.utils.logging.getLogLevel() == level
