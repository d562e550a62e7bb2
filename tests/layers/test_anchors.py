"""Anchors equal torchvision's; points are the centers of the cells."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from resnet_tasks.layers.anchors import AnchorShapes, generate_points

SIZES = ((16.0, 20.0), (32.0, 40.0), (64.0, 80.0))
RATIOS = (0.5, 1.0, 2.0)


@pytest.mark.parametrize("size", [(64, 96), (96, 32)])
def test_equal_torchvisions(size: tuple[int, int]) -> None:
    # The third level has odd sizes rounded up, so that its step is rounded down.
    levels = [torch.zeros(2, 1, -(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 40)]
    theirs = AnchorGenerator(SIZES, (RATIOS,) * 3)
    expected = theirs(ImageList(torch.zeros(2, 3, *size), [size] * 2), levels)[0]
    shapes = AnchorShapes(SIZES, RATIOS)
    got = shapes.generate(levels, size)
    assert shapes.per_cell == 6
    assert [len(level) for level in got] == [6 * level[0, 0].numel() for level in levels]
    assert torch.equal(torch.cat(got), expected)


def test_anchors_are_made_once_per_size() -> None:
    levels, shapes = [torch.zeros(1, 1, 4, 6)], AnchorShapes(((8.0,),), (1.0,))
    (first,) = shapes.generate(levels, (32, 48))
    (again,) = shapes.generate([torch.ones(3, 2, 4, 6)], (32, 48))
    assert first.data_ptr() == again.data_ptr()


def test_points_by_hand() -> None:
    fine, coarse = generate_points([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)], (8, 16))
    assert fine.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert coarse.tolist() == [[8, 8], [24, 8]]
