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
    assert read_bit_depth(path) == (None if bits is None else (bits, None))


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
    assert depths == [(8, None), (8, None), (8, None), None, None]


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


@pytest.mark.parametrize(
    ("code", "value", "bits"),
    [(281, 4095, 12), (281, 1023, 10), (341, 3000, 12), (281, 65535, None), (280, 0, None)],
)
def test_largest_value_in_the_header_of_a_tiff(
    tmp_path: Path, code: int, value: int, bits: int | None
) -> None:
    path, depths = tmp_path / "a.tif", BitDepths()
    pixels = np.ones((3, 4), np.uint16)
    tifffile.imwrite(path, pixels, extratags=[(code, "H", 1, value, True)])
    assert read_bit_depth(path) == (16, bits)
    depths.add(path, {})
    assert depths.used == ({} if bits is None else {bits: 1})
    assert depths.stored == ({16: 1} if bits is None else {})


def save_deep(folder: Path, values: list[int]) -> BitDepths:
    depths = BitDepths()
    for number, value in enumerate(values):
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.array([[0, value // 2], [value, 1]], np.uint16))
        depths.add(path, {})
    depths.read_samples()
    return depths


@pytest.mark.parametrize(
    ("values", "number", "largest", "bits", "fraction", "window"),
    [
        (
            [4095, 4095, 900],
            "3 images",
            4095,
            12,
            "0.062",
            "level=2047.5 data.intensity.width=4095",
        ),
        ([1900, 3], "2 images", 1900, 12, "0.029", "level=2047.5 data.intensity.width=4095"),
        ([1023], "1 image", 1023, 10, "0.016", "level=511.5 data.intensity.width=1023"),
        ([16383], "1 image", 16383, 14, "0.25", "level=8191.5 data.intensity.width=16383"),
        ([200], "1 image", 200, 8, "0.0031", "level=127.5 data.intensity.width=255"),
    ],
)
def test_few_bits_in_16_propose_a_window(
    tmp_path: Path,
    values: list[int],
    number: str,
    largest: int,
    bits: int,
    fraction: str,
    window: str,
) -> None:
    assert save_deep(tmp_path, values).describe_unused_bits() == (
        f"the largest value in {number} of 16 bits is {largest}, which looks like {bits} bits, but "
        "data.intensity.type=auto divides by 65535, so that the model receives values of at most "
        f"{fraction}; set data.intensity.type=window data.intensity.{window}"
    )


def test_some_images_of_12_bits_among_others_propose_percentiles(tmp_path: Path) -> None:
    warning = save_deep(tmp_path, [4095, 60000, 4095, 3000]).describe_unused_bits()
    assert warning is not None
    assert warning.startswith("the largest value in 2 of 4 images of 16 bits is 4095, which ")
    assert warning.endswith("set data.intensity.type=percentile")


def test_the_full_range_and_other_intensity_steps_need_no_warning(tmp_path: Path) -> None:
    assert save_deep(tmp_path, [60000, 3000, 20000]).describe_unused_bits() is None
    depths = save_deep(tmp_path, [4095])
    assert depths.describe_unused_bits(WINDOW) is None
    assert depths.describe_unused_bits(Intensity("percentile")) is None
    # The warning about mixed depths proposes percentiles already.
    depths.add(save_png(tmp_path / "a.png", np.uint8), {})
    assert depths.describe_mixture() is not None
    assert depths.describe_unused_bits() is None
    assert BitDepths().describe_unused_bits() is None


def test_a_sample_of_many_images_is_random(tmp_path: Path) -> None:
    """Every second image has larger values, which an even spacing could miss."""
    depths = save_deep(tmp_path, [4095, 60000] * 30)
    assert depths.largest.total() == 16
    assert set(depths.largest) == {4095, 60000}
    warning = save_deep(tmp_path, [4095] * 60).describe_unused_bits()
    assert warning is not None
    assert "in 16 sampled images of 16 bits is 4095" in warning
    assert warning.endswith("; `resnet-tasks data stats FILE` reads all images")


def test_stated_bits_are_not_exceeded_by_the_proposal(tmp_path: Path) -> None:
    """Images whose record states 14 bits, but whose values need 12."""
    path, depths = tmp_path / "a.png", BitDepths()
    cv2.imwrite(str(path), np.full((2, 2), 4000, np.uint16))
    depths.add(path, {"attributes": {"bits_stored": 14}})
    depths.read_samples()
    warning = depths.describe_unused_bits()
    assert warning is not None
    assert warning.endswith("data.intensity.level=8191.5 data.intensity.width=16383")


def test_unreadable_samples_are_skipped(tmp_path: Path) -> None:
    depths = save_deep(tmp_path, [])
    depths.add(tmp_path / "absent.png", {"attributes": {"bits_stored": 12}})
    depths.read_samples()
    assert depths.describe_unused_bits() is None


def test_the_proposed_window_maps_the_largest_value_to_1() -> None:
    step = Intensity("window", level=2047.5, width=4095)
    values = step(np.array([[[0], [4095]]], np.uint16))
    assert values.ravel().tolist() == [0.0, 1.0]
