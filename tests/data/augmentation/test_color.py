"""Quicker transforms of color are albumentations' own."""

from __future__ import annotations

import random

import albumentations
import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.data.augmentation import color
from resnet_tasks.data.augmentation.transforms import Augmentation

PARAMETERS = {
    "ColorJitter": [
        {},
        {"brightness": 0.4, "contrast": 0.9, "saturation": 1.0, "hue": 0.5},
        {"brightness": (0, 0), "contrast": (0, 0), "saturation": (0, 0), "hue": (-0.5, -0.5)},
        {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)},
    ],
    "RandomBrightnessContrast": [
        {},
        {"brightness_limit": 0.6, "contrast_limit": 0.9},
        {"brightness_by_max": False},
        {"ensure_safe_range": True},
        {"brightness_limit": (0, 0), "contrast_limit": (-1, -1)},
    ],
}
CASES = [(name, params) for name, each in PARAMETERS.items() for params in each]


def images() -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    plain = rng.random((37, 53, 3), dtype=np.float32)
    stored = rng.integers(0, 256, (37, 53, 3)) / np.float32(255)
    edges = rng.integers(0, 2, (37, 53, 3))  # black, white, pure colors: gray has no hue
    gray = rng.random((37, 53, 1))
    return [each.astype(np.float32) for each in (plain, stored, edges, gray)]


@pytest.mark.parametrize(("name", "params"), CASES)
def test_results_and_randomness_are_albumentations(name: str, params: dict) -> None:
    mine = getattr(color, name)(**params, p=0.7)
    theirs = getattr(albumentations, name)(**params, p=0.7)
    for image in images():
        before = image.copy()
        for seed in range(20):
            made = []
            for each in (mine, theirs):
                each.set_random_state(np.random.default_rng(seed), random.Random(seed))
                made.append(np.clip(each(image=image)["image"], 0, 1))
            assert made[0].shape == image.shape
            assert made[0].dtype == np.float32
            np.testing.assert_allclose(*made, atol=1e-5)
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", PARAMETERS)
def test_eight_bits_and_other_channels_are_left_to_albumentations(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    made = []
    for module in (color, albumentations):
        transform = getattr(module, name)(p=1.0)
        transform.set_random_state(np.random.default_rng(0), random.Random(0))
        made.append(transform(image=image)["image"])
    np.testing.assert_array_equal(*made)


def test_five_channels_are_refused_as_by_albumentations() -> None:
    with pytest.raises(TypeError, match="1-channel or 3-channel"):
        color.ColorJitter(p=1.0)(image=np.zeros((8, 8, 5), np.float32))


@pytest.mark.parametrize("name", PARAMETERS)
def test_recipes_get_them(name: str) -> None:
    augment = Augmentation([{name: {"p": 1.0}}])
    used = [type(each) for each in augment._compose.transforms]
    assert getattr(color, name) in used


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_checked_as_albumentations_does(name: str) -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        getattr(color, name)(p=3)
