"""Size, brightness and color of images, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.images.channels import StoredImage
from resnet_tasks.data.subgroups.measured import (
    compute_brightness,
    compute_chroma,
    split_by_brightness,
    split_by_color,
    split_by_size,
)


def test_thirds_of_sizes() -> None:
    sizes = np.asarray([[10, 10], [30, 10], [10, 20], [40, 10], [60, 10], [5, 100]])
    names, limits = split_by_size(sizes)
    assert names == ["small", "medium", "small", "medium", "large", "large"]
    assert limits == "small up to 200, large from 500 (pixels)"


def test_images_of_one_size_are_not_divided() -> None:
    names, limits = split_by_size(np.full((5, 2), 7))
    assert names == ["medium"] * 5
    assert limits == "5 images have the same value (49 pixels)"


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([1, 1, 9, 9], ["small", "small", "large", "large"]),
        ([1, 4, 4, 4, 9], ["small", "medium", "medium", "medium", "large"]),
        ([4, 4, 4, 4, 9], ["medium", "medium", "medium", "medium", "large"]),
        ([1, 1, 9], ["medium", "medium", "large"]),
        ([1, 2, 2, 2, 7, 7, 7], ["small"] * 4 + ["large"] * 3),
        ([1, 2, 2, 3, 3, 4], ["small", "medium", "medium", "large", "large", "large"]),
        ([9, 1, 4], ["large", "small", "medium"]),
        ([3], ["medium"]),
    ],
)
def test_equal_sizes_stay_together(pixels: list[int], expected: list[str]) -> None:
    names, _ = split_by_size(np.asarray([[1, number] for number in pixels]))
    assert names == expected


@pytest.mark.parametrize("number", range(3, 21))
def test_thirds_of_distinct_sizes_are_even(number: int) -> None:
    pixels = np.random.default_rng(number).permutation(number) + 1
    names, _ = split_by_size(np.stack([np.ones_like(pixels), pixels], axis=1))
    in_order = [names[i] for i in np.argsort(pixels)]
    counts = [names.count(name) for name in ("small", "medium", "large")]
    assert in_order == ["small"] * counts[0] + ["medium"] * counts[1] + ["large"] * counts[2]
    assert sum(counts) == number
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("number", range(3, 21))
def test_thirds_of_random_ties(number: int) -> None:
    rng = np.random.default_rng(number)
    for _ in range(50):
        pixels = rng.integers(1, rng.integers(2, 10), number)
        names, _ = split_by_size(np.stack([np.ones_like(pixels), pixels], axis=1))
        thirds = {value: {names[i] for i in np.flatnonzero(pixels == value)} for value in pixels}
        assert all(len(found) == 1 for found in thirds.values())
        order = [("small", "medium", "large").index(*thirds[value]) for value in sorted(thirds)]
        assert order == sorted(order)
        frequent = [value for value in sorted(thirds) if 3 * (pixels == value).sum() > number]
        if len(frequent) == 1:
            assert thirds[frequent[0]] == {"medium"}
            assert names.count("medium") == (pixels == frequent[0]).sum()
        elif frequent:
            assert [thirds[value] for value in frequent] == [{"small"}, {"large"}]
        else:
            assert set(names) == {"small", "medium", "large"}


def test_brightness_by_hand() -> None:
    gray = np.asarray([[0, 51], [102, 51]], np.uint8)[:, :, None]  # mean 51 = 0.2 of 255
    assert compute_brightness(StoredImage(gray, "gray")) == pytest.approx(0.2)
    deep = np.full((2, 2, 1), 13107, np.uint16)  # 0.2 of 65535
    assert compute_brightness(StoredImage(deep, "gray")) == pytest.approx(0.2)
    green = np.zeros((4, 4, 3), np.uint8)
    green[..., 1] = 255  # luma 0.587 * 255 = 149.7, rounded to 150
    assert compute_brightness(StoredImage(green, "color")) == pytest.approx(150 / 255)
    opaque = np.concatenate([gray, np.full_like(gray, 255)], axis=2)
    assert compute_brightness(StoredImage(opaque, "gray and alpha")) == pytest.approx(0.2)
    holes = np.asarray([[[np.nan], [3.0]], [[np.inf], [5.0]]], np.float32)
    assert compute_brightness(StoredImage(holes, "gray")) == 4.0


def test_chroma_by_hand() -> None:
    pixels = np.asarray([[[200, 100, 150], [100, 100, 100]]], np.uint8)
    assert compute_chroma(StoredImage(pixels, "color")) == pytest.approx(100 / 300)
    assert compute_chroma(StoredImage(pixels[..., :1], "gray")) == 0.0
    assert compute_chroma(StoredImage(np.zeros((2, 2, 3), np.uint8), "color")) == 0.0
    assert np.isnan(compute_chroma(StoredImage(np.ones((2, 2, 5), np.uint8), "bands")))


def test_files_are_read(tmp_path: Path) -> None:
    values = {"a": (10, 10, 10), "b": (250, 250, 250), "c": (180, 90, 140)}
    paths = []
    for name, color in values.items():
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGBA", (6, 5), (*color, 128)).save(paths[-1])
    steps: list[tuple[int, int]] = []
    names, _ = split_by_color(paths, advance=lambda done, total: steps.append((done, total)))
    assert names == ["gray", "gray", "color"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    names, limits = split_by_brightness(paths)
    assert names == ["dark", "bright", "medium"]
    assert limits == "dark up to 0.0392, bright from 0.98 (mean brightness, 0..1)"
