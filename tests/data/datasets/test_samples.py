"""Stored images become samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.structures.geometry import Geometry


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 1), (8, 12, 3)])
def test_gray_or_color_becomes_three_channels(shape: tuple[int, ...]) -> None:
    sample = make_sample(Preparation(), np.full(shape, 51, np.uint8), 4, "a.png")
    assert sample.image.shape == (3, 8, 12)
    assert torch.allclose(sample.image, torch.tensor(0.2))
    assert sample.image_id == 4
    assert sample.geometry == Geometry((8, 12), (8, 12))


def test_image_is_resized_and_knows_the_way_back() -> None:
    preparation = Preparation(1, Resize(4, 100), Intensity("window", level=100, width=200))
    sample = make_sample(preparation, np.full((8, 12), 50, np.uint16))
    assert sample.image.shape == (1, 4, 6)
    assert torch.allclose(sample.image, torch.tensor(0.25))
    assert sample.geometry == Geometry.from_resize((8, 12), (4, 6))


@pytest.mark.parametrize("shape", [(8, 12, 4), (8, 12, 2), (8,), (0, 12, 3), (1, 8, 12, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"a\.png has the shape \(.*allowed: \(height, width, 3\)"):
        make_sample(Preparation(), np.zeros(shape, np.uint8), 0, "a.png")


def test_floats_of_unknown_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"a\.png holds float64 values"):
        make_sample(Preparation(), np.full((8, 12), 7.0), 0, "a.png")
