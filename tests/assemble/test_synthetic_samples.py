"""Random samples have all fields that the heads of a recipe read."""

from __future__ import annotations

import torch

from resnet_tasks.assemble.synthetic_samples import NUM_OBJECTS, SyntheticSamples
from resnet_tasks.structures.samples import Sample


def make_sample(*fields: str) -> Sample:
    samples = SyntheticSamples(3, channels=3, size=(60, 90), categories=4, fields=fields)
    assert torch.equal(samples[1].image, samples[1].image)
    return samples[1]


def test_masks_fill_the_boxes() -> None:
    target = make_sample("boxes", "labels", "masks").target
    assert target.boxes is not None
    assert target.masks is not None
    assert len(target.masks) == NUM_OBJECTS
    assert target.masks.annotated.all()
    # The mask touches the sides of its window, which is at most one pixel larger than the box.
    assert (target.masks.compute_boxes() - target.boxes).abs().max() < 1
    width, height = (target.boxes[:, 2:] - target.boxes[:, :2]).unbind(1)
    share = target.masks.count_pixels() / (width * height)
    assert ((share > 0.6) & (share < 1.1)).all()


def test_only_requested_fields_are_generated() -> None:
    target = make_sample("boxes", "labels").target
    assert target.masks is None
    assert target.semantic is None
    assert make_sample("semantic").target.boxes is None
