"""Parts of image files equal the same parts of the decoded whole, whatever the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_tasks.data.datasets.samples import as_tensor, make_sample
from resnet_tasks.data.images import regions as module
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.regions import ArrayRegions, open_regions
from resnet_tasks.data.images.windows import Tile, WindowGrid
from resnet_tasks.errors import DataError

SIZE = (101, 150)
TILES = [Tile.from_size(SIZE), Tile(0, 0, 1, 1), Tile(40, 33, 61, 90), Tile(100, 149, 1, 1)]


def noise(channels: int, dtype: Any = np.uint8, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).integers(0, 256, (*SIZE, channels))
    return (values * (257 if dtype == np.uint16 else 1)).astype(dtype)


def in_parts(path: Path, channels: int) -> None:
    whole = read_image(path, channels)
    opened = open_regions(path, channels)
    assert opened.size == whole.shape[:2]
    for tile in TILES:
        part = opened.read(tile)
        assert part.dtype == whole.dtype
        assert np.array_equal(part, whole[tile.rows, tile.columns])
    assert np.array_equal(opened.read_all(), whole)


TIFFS: dict[str, dict[str, Any]] = {
    "uncompressed": {},
    "uncompressed strips": {"rowsperstrip": 16},
    "big endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 16, "compression": "zlib"},
    "predicted strips": {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (32, 48), "compression": "zlib"},
    "uncompressed tiles": {"tile": (32, 48)},
    "one strip": {"rowsperstrip": 101, "compression": "zlib"},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiffs(tmp_path: Path, kind: str, dtype: Any, channels: int) -> None:
    options = TIFFS[kind]
    if dtype == np.float32 and "predictor" in options:
        pytest.skip("floats have a predictor of their own")
    pixels = noise(channels, dtype)
    photometric = "rgb" if channels == 3 else "minisblack"
    pixels = pixels[:, :, 0] if channels == 1 else pixels
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, **options)
    in_parts(tmp_path / "a.tif", channels)
    in_parts(tmp_path / "a.tif", 3)  # gray becomes color part by part
    in_memory = isinstance(open_regions(tmp_path / "a.tif", channels), ArrayRegions)
    assert in_memory == (kind == "one strip")


def test_tiffs_that_are_decoded_whole(tmp_path: Path) -> None:
    pixels = noise(3)
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(
        tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate", rowsperstrip=9
    )
    in_parts(tmp_path / "planes.tif", 3)
    tifffile.imwrite(tmp_path / "pages.tif", planes, photometric="minisblack")
    in_parts(tmp_path / "pages.tif", 3)
    Image.fromarray(pixels).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    in_parts(tmp_path / "lzw.tif", 3)
    tifffile.imwrite(tmp_path / "white.tif", pixels[:, :, 0], photometric="miniswhite")
    in_parts(tmp_path / "white.tif", 1)
    turned = [(274, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "turned.tif", pixels, photometric="rgb", extratags=turned)
    assert open_regions(tmp_path / "turned.tif").size == SIZE[::-1]


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (5, np.uint16)])
def test_arrays_are_mapped(tmp_path: Path, channels: int, dtype: Any) -> None:
    np.save(tmp_path / "a.npy", noise(channels, dtype))
    in_parts(tmp_path / "a.npy", channels)
    assert not open_regions(tmp_path / "a.npy", channels).is_in_memory


def test_other_formats(tmp_path: Path) -> None:
    Image.fromarray(noise(3)).save(tmp_path / "a.png")
    in_parts(tmp_path / "a.png", 3)
    in_parts(tmp_path / "a.png", 1)


def test_truncated_and_absent_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(3), photometric="rgb", rowsperstrip=8, compression="zlib")
    opened = open_regions(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.tif"):
        opened.read(Tile(90, 0, 10, 10))
    with pytest.raises(DataError, match="does not exist"):
        open_regions(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", ["npy", "tif", "png"])
def test_the_limit_of_size_holds_and_can_be_raised(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, noise(3))
    elif suffix == "tif":
        tifffile.imwrite(path, noise(3), photometric="rgb")
    else:
        Image.fromarray(noise(3)).save(path)
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match=r"limit of 1,000.*--max-pixels"):
        open_regions(path)
    assert open_regions(path, max_pixels=15150).size == SIZE
    with pytest.raises(DataError, match=r"limit of 15,149"):
        Preparation(max_pixels=15149).read(path)
    # Far beyond Pillow's own limit as well.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert Preparation(max_pixels=15150).read(path).shape == (*SIZE, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    "intensity",
    [Intensity(), Intensity("window", 100, 150), Intensity("percentile", per_channel=True)],
)
@pytest.mark.parametrize("resize", [None, Resize(70, 60)])
def test_prepared_parts_equal_the_prepared_whole(
    tmp_path: Path, intensity: Intensity, resize: Resize | None
) -> None:
    np.save(tmp_path / "a.npy", noise(3, np.uint16))
    preparation = Preparation(3, resize, intensity)
    whole = make_sample(preparation, read_image(tmp_path / "a.npy"))
    for source in (tmp_path / "a.npy", read_image(tmp_path / "a.npy")):
        opened = preparation.open_image(source)
        assert opened.size == tuple(whole.image.shape[1:])
        for tile in WindowGrid(32, 32, 0.3).make_tiles(opened.size):
            pixels, geometry = opened.read_window(tile)
            assert (as_tensor(pixels) == whole.image[:, tile.rows, tile.columns]).all()
            assert geometry.original_size == SIZE
