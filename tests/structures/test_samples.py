"""Batches and what a head sees of them: hand-computed cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack, to_stack


def sample(height: int, width: int, target: Target, image_id: int = 0) -> Sample:
    size = (height, width)
    image = torch.full((3, *size), 0.5)
    return Sample(image, Geometry(size, size), image_id, f"{image_id}.png", target, image_id + 100)


def test_collate_pads_right_and_below() -> None:
    masks = from_stack(torch.ones(2, 5, 33, dtype=torch.bool))
    first = Target(semantic=torch.zeros(5, 33, dtype=torch.int64), masks=masks)
    batch = collate([sample(5, 33, first), sample(40, 7, Target(), 1)])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.padded_size == (64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images[0].sum() == 0.5 * 3 * 5 * 33
    assert (batch.images[1, :, :40, :7] == 0.5).all()
    target = batch.targets[0]
    assert target.semantic is not None
    assert target.masks is not None
    assert (target.semantic[:5, :33] == 0).all()
    assert (target.semantic == VOID).sum() == 64 * 64 - 5 * 33
    assert target.masks.windows.tolist() == [[0, 0, 33, 5]] * 2
    assert to_stack(target.masks, batch.padded_size).sum() == 2 * 5 * 33
    assert batch.targets[1].semantic is None
    assert batch.seeds == (100, 101)


def test_collate_makes_floats_of_bytes() -> None:
    """The nearest to v / 255 of each, beside images that are floats already."""
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    small, floats = sample(16, 16, Target()), sample(33, 5, Target())
    batch = collate([replace(small, image=stored), floats])
    assert batch.images.dtype == torch.float32
    exact = (torch.arange(256, dtype=torch.float64) / 255).float().reshape(16, 16)
    assert torch.equal(batch.images[0, :, :16, :16], exact.expand(3, -1, -1))
    assert batch.images[0, :, 16:].abs().max() == 0
    assert batch.images[0, :, :, 16:].abs().max() == 0
    assert (batch.images[1, :, :33, :5] == 0.5).all()


@pytest.mark.parametrize("side", [0.0, -1.0, float("nan")])
def test_collate_refuses_objects_without_area(side: float) -> None:
    boxes = torch.tensor([[1, 1, 3, 3], [2.0, 2, 2 + side, 5]])
    target = Target(boxes, torch.tensor([0, 1]), torch.tensor([False, False]))
    with pytest.raises(DataError, match=r"^image 0 .*the box \[2.0, 2.0, .* has no area"):
        collate([sample(5, 33, target)])
    # An ignore region covers nothing then, and does no harm.
    collate([sample(5, 33, replace(target, ignore=torch.tensor([False, True])))])


def test_collate_takes_another_multiple() -> None:
    assert collate([sample(5, 33, Target())], multiple=1).padded_size == (5, 33)


def test_annotated_tells_nothing_from_nothing_there() -> None:
    nothing_there = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    targets = [Target(), nothing_there, Target(semantic=torch.zeros(4, 4, dtype=torch.int64))]
    batch = collate([sample(4, 4, each, i) for i, each in enumerate(targets)])
    assert batch.find_annotated(("boxes", "labels")) == (1,)
    assert batch.find_annotated(("semantic",)) == (2,)
    assert batch.find_annotated(("image_labels",)) == ()


def test_view_is_cut_to_positions_and_translated() -> None:
    targets = [Target(semantic=torch.full((4, 4), i)) for i in range(3)]
    batch = collate([sample(4, 4, each, i) for i, each in enumerate(targets)])
    view = batch.make_view(LabelTable(("c", "b", "a"), (2, 1, 0)), (2, 0))
    assert len(view) == 2
    assert view.image_ids == (2, 0)
    assert view.seeds == (102, 100)
    assert view.image_sizes == ((4, 4), (4, 4))
    assert view.semantic.shape == (2, 32, 32)
    assert view.semantic[:, 0, 0].tolist() == [0, 2]
    assert view.semantic[:, 0, 4].tolist() == [VOID, VOID]
    assert len(batch.make_view(LabelTable.identity(("a", "b", "c")))) == 3
