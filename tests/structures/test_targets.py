"""Fields of a target that tasks ask for."""

from __future__ import annotations

import torch

from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target


def test_a_task_may_need_a_field_of_the_users_own() -> None:
    assert Target(extra={"depth": torch.zeros(1)}).has_fields(("depth",))
    assert not Target().has_fields(("depth",))


def test_masks_move_with_the_other_fields() -> None:
    masks = InstanceMasks.from_bitmaps([torch.ones(2, 3, dtype=torch.bool)], [(4, 5)])
    moved = Target(boxes=torch.zeros(1, 4), masks=masks).to("meta")
    assert moved.boxes is not None
    assert moved.masks is not None
    tensors = (moved.boxes, moved.masks.windows, moved.masks.pixels, moved.masks.annotated)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 4
    assert moved.semantic is None
