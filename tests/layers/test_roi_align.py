"""RoIAlign over rows equals torchvision's operator: values and gradients, borders, dtypes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from resnet_tasks.layers.roi_align import (
    RoiRequest,
    assign_boxes_to_levels,
    multilevel_roi_align,
    pool_together,
    roi_align_compiled,
    roi_align_rows,
)
from resnet_tasks.runs.model_cost import measure_peak_bytes

STRIDES = (4, 8, 16, 32)
HEIGHT, WIDTH = 256, 320


def pyramid(dtype: torch.dtype = torch.float32, channels: int = 5) -> list[Tensor]:
    return [
        torch.randn(2, channels, HEIGHT // s, WIDTH // s)
        .to(dtype)
        .to(memory_format=torch.channels_last)
        .requires_grad_()
        for s in STRIDES
    ]


def boxes_of_all_kinds() -> Tensor:
    corner = torch.rand(60, 2) * torch.tensor([300.0, 240.0]) - 10
    side = 2 ** (torch.rand(60, 2) * 8)
    special = torch.tensor(
        [
            [0.0, 0.0, WIDTH, HEIGHT],
            [WIDTH - 3.0, HEIGHT - 2.0, WIDTH, HEIGHT],
            [0.0, 0.0, 0.5, 0.5],
            [-50.0, -60.0, 30.0, 20.0],
            [WIDTH + 40.0, 10.0, WIDTH + 90.0, 60.0],
            [100.0, 100.0, 100.0, 100.0],
            [-400.0, -300.0, 700.0, 600.0],
        ]
    )
    return torch.cat((torch.cat((corner, corner + side), dim=1), special))


def run(
    pool: Callable[..., Tensor],
    levels: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    *sizes: int,
) -> tuple[Tensor, list[Tensor]]:
    pooled = pool(levels, STRIDES, boxes, images, assign_boxes_to_levels(boxes, STRIDES), *sizes)
    weights = torch.linspace(-1, 1, pooled.numel()).view(pooled.shape)
    gradients = torch.autograd.grad((pooled.float() * weights).sum(), levels)
    return pooled, list(gradients)


@pytest.mark.parametrize("sizes", [(7, 2), (3, 1), (5, 3)])
def test_rows_equal_the_compiled_operator(sizes: tuple[int, int]) -> None:
    levels, boxes = pyramid(), boxes_of_all_kinds()
    images = torch.randint(2, (len(boxes),))
    assert set(assign_boxes_to_levels(boxes, STRIDES).tolist()) == {0, 1, 2, 3}
    ours, our_gradients = run(roi_align_rows, levels, boxes, images, *sizes)
    theirs, their_gradients = run(roi_align_compiled, levels, boxes, images, *sizes)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for mine, yours in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)


def test_equals_torchvisions_multi_scale_pooler() -> None:
    levels = pyramid()
    boxes = [boxes_of_all_kinds()[:60] for _ in range(2)]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(
        {str(index): level for index, level in enumerate(levels)}, boxes, [(HEIGHT, WIDTH)] * 2
    )
    images = torch.arange(2).repeat_interleave(60)
    ours = multilevel_roi_align(levels, STRIDES, torch.cat(boxes), images)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_bfloat16_stays_close_to_float32() -> None:
    levels, boxes = pyramid(torch.bfloat16), boxes_of_all_kinds()
    images = torch.randint(2, (len(boxes),))
    ours, our_gradients = run(roi_align_rows, levels, boxes, images, 7, 2)
    with torch.no_grad():
        chosen = assign_boxes_to_levels(boxes, STRIDES)
        inferred = roi_align_rows(levels, STRIDES, boxes, images, chosen, 7, 2)
    exact = [level.detach().float().requires_grad_() for level in levels]
    theirs, their_gradients = run(roi_align_compiled, exact, boxes, images, 7, 2)
    assert ours.dtype == inferred.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, atol=0.02, rtol=0.01)
    torch.testing.assert_close(inferred.float(), theirs, atol=0.03, rtol=0.02)
    for mine, yours in zip(our_gradients, their_gradients, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - yours).norm() <= 0.005 * yours.norm()


def test_another_reader_of_a_level_adds_its_gradient_in_place() -> None:
    levels, boxes = pyramid(channels=32), boxes_of_all_kinds()[:2]
    images, chosen = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    places = torch.arange(0, 5000, 7)

    def gradients(*, has_reader: bool) -> Tensor:
        maps = [level * 1.0 for level in levels]
        rows = maps[0].permute(0, 2, 3, 1).reshape(-1, 32)
        total = rows.index_select(0, places).sum() if has_reader else torch.zeros(())
        total = total + roi_align_rows(maps, STRIDES, boxes, images, chosen, 7, 2).sum()
        return torch.autograd.grad(total, levels)[0]

    added = gradients(has_reader=True) - gradients(has_reader=False)
    wanted = torch.zeros(added.permute(0, 2, 3, 1).reshape(-1, 32).shape)
    wanted[places] = 1.0
    torch.testing.assert_close(added.permute(0, 2, 3, 1).reshape(-1, 32), wanted)
    device, finest = torch.device("cpu"), 4 * levels[0].numel()
    plain, shared = (
        measure_peak_bytes(partial(gradients, has_reader=each), device) for each in (False, True)
    )
    assert shared - plain < 0.5 * finest


def test_no_boxes_give_an_empty_result_with_gradient() -> None:
    levels = pyramid()
    pooled = multilevel_roi_align(levels, STRIDES, torch.zeros(0, 4), torch.zeros(0).long())
    assert pooled.shape == (0, 5, 7, 7)
    pooled.sum().backward()
    assert levels[0].grad is not None
    assert levels[0].grad.count_nonzero() == 0


def test_hand_computed_bins_of_a_ramp() -> None:
    # A feature equal to its column: a bin's mean is the mean column of its samples. Boxes of 8 by 8
    # cells on P2; without half-cell alignment a bin of one cell samples at +0.25 and +0.75.
    ramp = torch.arange(80.0).expand(1, 1, 64, 80)
    box = torch.tensor([[16.0, 16.0, 48.0, 48.0]])
    pooled = multilevel_roi_align([ramp], [4], box, torch.tensor([0]), output_size=8)
    torch.testing.assert_close(pooled[0, 0], (torch.arange(8.0) + 4.5).expand(8, 8))


def test_level_of_a_box_follows_equation_one() -> None:
    sides = torch.tensor([10.0, 111.9, 112.0, 223.9, 224.0, 447.0, 448.0, 5000.0, 0.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    assert assign_boxes_to_levels(boxes, STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]


@pytest.mark.gpu
def test_other_devices_give_the_same() -> None:
    levels, boxes = pyramid(), boxes_of_all_kinds()
    images = torch.randint(2, (len(boxes),))
    here = multilevel_roi_align(levels, STRIDES, boxes, images)
    there = multilevel_roi_align(
        [level.cuda() for level in levels], STRIDES, boxes.cuda(), images.cuda()
    )
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


def test_boxes_that_are_pooled_together_equal_boxes_that_are_pooled_alone() -> None:
    """Values to the bit; gradients up to the order of sums, with one map per level."""
    generator = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(2, 8, 64 // s, 96 // s, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for s in STRIDES
    ]
    corners = torch.rand(30, 2, generator=generator) * 40
    boxes = torch.cat((corners, corners + 4 + torch.rand(30, 2, generator=generator) * 50), 1)
    images = torch.randint(0, 2, (30,), generator=generator)
    requests = [RoiRequest(boxes, images, 7), RoiRequest(boxes[5:12], images[5:12], 14)]
    gradients, pooled = [], []
    for together in (True, False):
        own = [level.clone().requires_grad_() for level in levels]
        if together:
            made = pool_together(own, STRIDES, requests)
        else:
            made = [
                multilevel_roi_align(own, STRIDES, r.boxes, r.images, output_size=r.output_size)
                for r in requests
            ]
        sum((part * part).sum() for part in made).backward()
        pooled.append(made)
        gradients.append([level.grad for level in own])
    for ours, alone in zip(*pooled, strict=True):
        assert torch.equal(ours, alone)
    for ours, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)
