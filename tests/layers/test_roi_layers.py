"""Layers on boxes in slots equal layers on the boxes alone, in eager mode and traced."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from resnet_tasks.layers.roi_align import multilevel_roi_align
from resnet_tasks.layers.roi_layers import apply_to_rois

STRIDES = (4, 8, 16)


def levels(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 6, 256 // s, 320 // s, generator=generator) for s in STRIDES]


def random_boxes(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of several levels, the mask of those that exist, and one number per box."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, 9, 2, generator=generator) * 100
    sides = 10 + 200 * torch.rand(2, 9, 2, generator=generator)
    valid = torch.rand(2, 9, generator=generator) > 0.4
    factors = torch.rand(2, 9, generator=generator)
    return torch.cat((corners, corners + sides), 2), valid, factors


class Pool(nn.Module):
    def forward(
        self, fine: Tensor, middle: Tensor, coarse: Tensor, *rows: Tensor
    ) -> tuple[Tensor, ...]:
        boxes, valid, factors = rows

        def multiply(pooled: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
            assert pooled.shape[1:] == (6, 5, 5)
            return pooled.mean(dim=(2, 3)) * factor[:, None], factor

        return apply_to_rois(
            multiply, (fine, middle, coarse), STRIDES, boxes, valid, factors, output_size=5
        )


def test_only_valid_boxes_are_computed_and_lie_in_their_slots() -> None:
    boxes, valid, factors = random_boxes()
    assert 3 < int(valid.sum()) < 15
    result, returned = Pool()(*levels(), boxes, valid, factors)
    images = valid.nonzero()[:, 0]
    pooled = multilevel_roi_align(levels(), STRIDES, boxes[valid], images, output_size=5)
    expected = pooled.mean(dim=(2, 3)) * factors[valid][:, None]
    torch.testing.assert_close(result[valid], expected)
    assert torch.equal(returned, factors * valid)
    assert (result[~valid] == 0).all()
    everything, _ = Pool()(*levels(), boxes, torch.ones_like(valid), factors)
    torch.testing.assert_close(everything[valid], expected)
    nothing, _ = Pool()(*levels(), boxes, torch.zeros_like(valid), factors)
    assert nothing.shape == (2, 9, 6)
    assert not nothing.any()


def test_a_trace_computes_the_same_whatever_levels_the_boxes_read() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = (*levels(), *random_boxes())
        traced = torch.jit.trace(Pool(), inputs, check_trace=False)  # type: ignore[no-untyped-call]
    boxes, valid, factors = random_boxes(seed=1)
    small = torch.cat((boxes[..., :2], boxes[..., :2] + 12), dim=2)  # all on one level
    for given in (boxes, small):
        got, _ = traced(*levels(1), given, valid, factors)
        expected, _ = Pool()(*levels(1), given, torch.ones_like(valid), factors)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
