from pathlib import Path

import numpy as np
import pytest

from data_tools.writing.lossless_images import shrink, write_lossless_image
from data_tools.writing.value_types import INTEGER_TYPES
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.errors import DataError


@pytest.mark.parametrize("kind", [*INTEGER_TYPES, np.float32])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 7])
def test_whatever_is_written_is_read_unchanged(tmp_path: Path, kind: type, channels: int) -> None:
    rng = np.random.default_rng(channels)
    pixels = rng.normal(0, 3e4, (5, 6, channels) if channels else (5, 6)).astype(np.int64)
    pixels = pixels.astype(kind) if kind is not np.float32 else pixels.astype(kind) / 7
    file = write_lossless_image(tmp_path / "deep" / "1.2.840", pixels)
    assert file.name.startswith("1.2.840.")
    read = decode_image(file)
    assert read.pixels.dtype == kind
    assert read.layout == ("gray" if channels < 2 else "bands")
    np.testing.assert_array_equal(read.pixels, pixels.reshape(5, 6, -1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_colors_stay_colors(tmp_path: Path, kind: type) -> None:
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (4, 5, 3)).astype(kind)
    file = write_lossless_image(tmp_path / "a", pixels, is_color=True)
    assert file.suffix == (".tif" if kind is np.uint32 else ".png")
    read = decode_image(file)
    assert read.layout == "color"
    np.testing.assert_array_equal(read.pixels, pixels)


@pytest.mark.parametrize(("kind", "suffix"), [(np.uint8, "png"), (np.float32, "tif")])
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, kind: type, suffix: str) -> None:
    pixels = np.ones((4, 5), kind)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"file/a\.{suffix} cannot be written \(File exists"):
        write_lossless_image(tmp_path / "file/a", pixels)
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / f"b.{suffix}").symlink_to("/dev/full")
    with pytest.raises(DataError, match=rf"b\.{suffix} cannot be written \(No space left"):
        write_lossless_image(tmp_path / "b", pixels)


def test_shrinking_averages() -> None:
    pixels = np.array([[0, 10, 20, 30], [1, 11, 21, 31]], dtype=np.int32)
    np.testing.assert_array_equal(shrink(pixels, 2), [[6, 26]])  # 5.5 and 25.5, to the even
    assert shrink(pixels, 2).dtype == np.int32
    assert shrink(pixels, 4) is pixels
    assert shrink(pixels, None) is pixels
    np.testing.assert_allclose(shrink(pixels.astype(np.float32), 2), [[5.5, 25.5]])
    assert shrink(np.zeros((9, 2, 3), np.uint8), 3).shape == (3, 1, 3)
