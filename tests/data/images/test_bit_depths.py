from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_tasks.data.images.bit_depths import BitDepths, read_bit_depth
from resnet_tasks.data.images.intensity import Intensity

WINDOW = Intensity("window", level=50, width=100)


@pytest.mark.parametrize(
    ("suffix", "dtype", "bits"),
    [
        ("png", np.uint8, 8),
        ("png", np.uint16, 16),
        ("tif", np.uint8, 8),
        ("tif", np.uint16, 16),
        ("tif", np.int16, None),
        ("tif", np.float32, None),
        ("npy", np.uint16, 16),
        ("npy", np.uint32, None),
    ],
)
def test_depth_of_a_header(tmp_path: Path, suffix: str, dtype: Any, bits: int | None) -> None:
    pixels, path = np.ones((3, 4), dtype), tmp_path / f"a.{suffix}"
    if suffix == "png":
        cv2.imwrite(str(path), pixels)
    elif suffix == "tif":
        tifffile.imwrite(path, pixels)
    else:
        np.save(path, pixels)
    assert read_bit_depth(path) == bits


def test_other_files(tmp_path: Path) -> None:
    Image.new("RGB", (3, 4)).save(tmp_path / "a.jpg")
    Image.new("RGB", (3, 4)).save(tmp_path / "a.bmp")
    Image.new("1", (3, 4)).save(tmp_path / "bits.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    depths = [
        read_bit_depth(tmp_path / name)
        for name in ("a.jpg", "a.bmp", "bits.png", "cut.tif", "absent.png")
    ]
    assert depths == [8, 8, 8, None, None]


def save_png(path: Path, dtype: Any) -> Path:
    cv2.imwrite(str(path), np.ones((3, 4), dtype))
    return path


def test_mixtures_depend_on_the_intensity_step(tmp_path: Path) -> None:
    depths = BitDepths()
    depths.add(save_png(tmp_path / "a.png", np.uint8), {})
    assert depths.describe_mixture() is None
    for name in ("b", "c"):
        depths.add(save_png(tmp_path / f"{name}.png", np.uint16), {"attributes": {"view": "PA"}})
    assert depths.describe_mixture() == "1 image of 8 bits, 2 images of 16 bits"
    # A window maps the same stored values alike, whatever their type.
    assert depths.describe_mixture(WINDOW) is None
    assert depths.describe_mixture(Intensity("percentile")) is None


def test_stated_bits_replace_those_of_the_file(tmp_path: Path) -> None:
    path, depths = save_png(tmp_path / "a.png", np.uint16), BitDepths()
    for bits in (8, 12, 12):
        depths.add(path, {"attributes": {"bits_stored": bits}})
    assert depths.describe_mixture() == "1 image of 8 bits, 2 images of 12 bits"
    assert depths.describe_mixture(WINDOW) == "1 image of 8 bits, 2 images of 12 bits"
    assert depths.describe_mixture(Intensity("percentile")) is None


@pytest.mark.parametrize("stated", ["12", 0, 99, None, [12]])
def test_odd_statements_are_ignored(tmp_path: Path, stated: object) -> None:
    depths = BitDepths()
    depths.add(save_png(tmp_path / "a.png", np.uint16), {"attributes": {"bits_stored": stated}})
    depths.add(save_png(tmp_path / "b.png", np.uint16), {"attributes": "none"})
    assert depths.stored == {16: 2}
    assert not depths.used
