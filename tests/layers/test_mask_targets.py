"""Mask targets equal RoIAlign of the full masks, are not shifted, and need no stack of masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from resnet_tasks.layers import mask_targets
from resnet_tasks.layers.mask_targets import sample_masks
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.run_lengths import decode_bitmap
from resnet_tasks.tasks.instance_segmentation.pasting import paste_mask
from tests.support.mask_stacks import to_stack

SIZE = (300, 420)


def random_masks(boxes: Tensor, seed: int = 0) -> InstanceMasks:
    """Bitmaps of random pixels in boxes of whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    bitmaps = [
        torch.rand(y2 - y1, x2 - x1, generator=generator) > 0.4 for x1, y1, x2, y2 in boxes.tolist()
    ]
    return InstanceMasks.from_bitmaps(bitmaps, [(x, y) for x, y, _, _ in boxes.tolist()])


WINDOWS = torch.tensor(
    [
        [0, 0, 30, 20],
        [390, 270, 420, 300],  # touches the right and lower border
        [100, 50, 103, 200],
        [20, 30, 400, 290],  # large
        [200, 100, 260, 180],
    ]
)


def random_boxes(number: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Objects, and boxes about their windows that lie inside the image."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.randint(len(WINDOWS), (number,), generator=generator)
    boxes = WINDOWS[objects].float()
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + 0.4 * sides * torch.randn(number, 4, generator=generator)
    limit = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    corners = torch.minimum(boxes[:, :2], boxes[:, 2:])
    return objects, torch.cat((corners, torch.maximum(boxes[:, :2], boxes[:, 2:])), dim=1)


# With 7 bins, torchvision adds up to 2,000 samples per bin one by one, which rounds more.
@pytest.mark.parametrize(("output_size", "tolerance"), [(28, 1e-6), (7, 5e-6)])
def test_equal_roi_align_of_full_masks(output_size: int, tolerance: float) -> None:
    masks = random_masks(WINDOWS)
    objects, boxes = random_boxes(60)
    boxes = torch.cat((boxes, WINDOWS[objects[:5]].float()))  # boxes that are the windows
    objects = torch.cat((objects, objects[:5]))
    got = sample_masks(masks, objects, boxes, SIZE, output_size=output_size)
    rois = torch.cat((objects[:, None].float(), boxes), dim=1)
    stack = to_stack(masks, SIZE)[:, None].float()
    expected = roi_align(stack, rois, output_size, aligned=True)[:, 0]
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
    assert 0.2 < got.mean() < 0.8
    assert len({int(index) for index in objects}) == len(WINDOWS)


def test_small_objects_are_computed_in_parts_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects, boxes = random_boxes(60)
    masks = random_masks(WINDOWS)
    expected = sample_masks(masks, objects, boxes, SIZE, output_size=28)
    calls = []
    gather = mask_targets._gather_bitmaps

    def note(*arguments: object) -> Tensor:
        result: Tensor = gather(*arguments)  # type: ignore[arg-type]
        calls.append(result.numel())
        return result

    monkeypatch.setattr(mask_targets, "_gather_bitmaps", note)
    monkeypatch.setattr(mask_targets, "MAX_GATHERED", 4 * mask_targets.SMALL_SIDE**2)
    got = sample_masks(masks, objects, boxes, SIZE, output_size=28)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert len(calls) > 5
    assert max(calls) <= 4 * mask_targets.SMALL_SIDE**2


def test_by_hand() -> None:
    # Rows 0..3 of a window of 8 x 8 are set, and bins are pixels: the target is the bitmap.
    bitmap = torch.zeros(8, 8, dtype=torch.bool)
    bitmap[:4] = True
    masks = InstanceMasks.from_bitmaps([bitmap], [(10, 20)])
    box = torch.tensor([[10.0, 20.0, 18.0, 28.0]])
    got = sample_masks(masks, torch.tensor([0]), box, (64, 64), output_size=8)
    assert torch.equal(got[0], bitmap.float())
    # Bins between two pixels, along x and y.
    moved = sample_masks(masks, torch.tensor([0]), box + 0.5, (64, 64), output_size=8)
    assert moved[0, :, 3].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0]
    assert moved[0, 1].tolist() == [1] * 7 + [0.5]


def test_pasted_targets_are_the_masks() -> None:
    # What a perfect model predicts, pasted into the image, lies on the object without a shift.
    y, x = torch.meshgrid(torch.arange(33), torch.arange(21), indexing="ij")
    ellipse = ((y - 16) / 16.5) ** 2 + ((x - 10) / 10.5) ** 2 <= 1
    masks = InstanceMasks.from_bitmaps([ellipse], [(7, 5)])
    for margin in ([0.0, 0.0, 0.0, 0.0], [-0.7, -0.2, 1.3, 0.4], [-2.5, -3.1, 1.8, 0.9]):
        box = torch.tensor([[7.0, 5.0, 28.0, 38.0]]) + torch.tensor(margin)
        target = sample_masks(masks, torch.tensor([0]), box, (48, 48), output_size=28)[0]
        rle = paste_mask(target.numpy(), box[0].tolist(), (48, 48))
        bitmap, left, top = decode_bitmap(rle)
        pasted = np.zeros((48, 48), np.bool_)
        pasted[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
        truth = to_stack(masks, (48, 48))[0].numpy().astype(bool)
        offset = np.argwhere(pasted).mean(axis=0) - np.argwhere(truth).mean(axis=0)
        assert np.abs(offset).max() < 0.06, margin
        assert (pasted & truth).sum() / (pasted | truth).sum() > 0.97


def test_objects_without_pixels_and_no_boxes() -> None:
    masks = InstanceMasks.from_bitmaps([None, torch.ones(4, 4, dtype=torch.bool)], [(0, 0), (2, 2)])
    box = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
    assert not sample_masks(masks, torch.tensor([0]), box, (16, 16), output_size=4).any()
    nothing = sample_masks(
        masks, torch.zeros(0, dtype=torch.int64), box[:0], (16, 16), output_size=4
    )
    assert nothing.shape == (0, 4, 4)


def test_autocast_does_not_round() -> None:
    masks = random_masks(WINDOWS)
    objects, boxes = random_boxes(20)
    expected = sample_masks(masks, objects, boxes, SIZE, output_size=28)
    with torch.autocast("cpu", torch.bfloat16):
        got = sample_masks(masks, objects, boxes, SIZE, output_size=28)
    assert torch.equal(got, expected)
