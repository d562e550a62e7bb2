"""Random targets: annotations that agree with each other."""

from __future__ import annotations

import torch

from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.testing.random_batches import random_target


def test_masks_are_ellipses_that_touch_their_boxes() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        target = random_target((61, 83), 3, generator, objects=4)
        assert target.masks is not None
        assert target.boxes is not None
        assert target.labels is not None
        assert target.semantic is not None
        assert torch.equal(target.masks.compute_boxes(), target.boxes)
        assert torch.equal(target.masks.windows, target.boxes.long())
        assert target.masks.annotated.all()
        shares = target.masks.count_pixels() / target.masks.areas
        assert ((shares - torch.pi / 4).abs() < 0.1).all()
        covered = torch.zeros(61, 83, dtype=torch.bool)
        for i in range(4):
            covered |= target.masks.rasterize(i, (61, 83))
        assert torch.equal(target.semantic != VOID, covered)
        last = target.masks.rasterize(3, (61, 83))
        assert (target.semantic[last] == target.labels[3]).all()


def test_target_without_objects_has_empty_masks() -> None:
    target = random_target((20, 20), 3, torch.Generator(), objects=0)
    assert target.masks is not None
    assert len(target.masks) == 0
