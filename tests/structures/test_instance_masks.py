"""Masks in windows equal masks on the full image through every operation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.label_maps import resize_labels
from tests.support.mask_stacks import from_stack, to_stack

SIZE = (13, 17)


def random_stack(seed: int, size: tuple[int, int] = SIZE, objects: int = 6) -> Tensor:
    """Draw random masks in random boxes; object 1 is empty, object 2 covers the full image."""
    rng = np.random.default_rng(seed)
    stack = torch.zeros(objects, *size, dtype=torch.bool)
    for i, mask in enumerate(stack):
        y1, x1 = rng.integers(0, size)
        y2, x2 = rng.integers((y1, x1), size) + 1
        if i != 1:
            mask[y1:y2, x1:x2] = torch.from_numpy(rng.random((y2 - y1, x2 - x1)) < 0.7)
    stack[2] = True
    return stack


def loose_masks(stack: Tensor) -> InstanceMasks:
    """Return masks whose windows extend beyond the set pixels."""
    bitmaps = [mask[:, 1:] if not mask[:, 0].any() else mask for mask in stack]
    corners = [(1, 0) if not mask[:, 0].any() else (0, 0) for mask in stack]
    return InstanceMasks.from_bitmaps(bitmaps, corners)


def test_bitmaps_by_hand() -> None:
    masks = InstanceMasks.from_bitmaps(
        [np.array([[True, False, True]]), None, torch.tensor([[True], [True]])],
        [(4, 2), (7, 7), (0, 1)],
    )
    assert len(masks) == 3
    assert masks.windows.tolist() == [[4, 2, 7, 3], [0, 0, 0, 0], [0, 1, 1, 3]]
    assert masks.windows.dtype == torch.int64
    assert masks.pixels.tolist() == [True, False, True, True, True]
    assert masks.annotated.tolist() == [True, False, True]
    assert masks.areas.tolist() == [3, 0, 2]
    assert masks.starts.tolist() == [0, 3, 3]
    assert masks.count_pixels().tolist() == [2, 0, 2]
    assert masks.compute_boxes().tolist() == [[4, 2, 7, 3], [0, 0, 0, 0], [0, 1, 1, 3]]
    assert masks.rasterize(0, (4, 8)).nonzero().tolist() == [[2, 4], [2, 6]]
    assert masks.rasterize(0, (4, 5)).nonzero().tolist() == [[2, 4]]
    assert not masks.rasterize(1, (4, 8)).any()


@pytest.mark.parametrize("make", [from_stack, loose_masks])
@pytest.mark.parametrize("seed", range(5))
def test_operations_equal_those_on_the_full_image(make, seed: int) -> None:
    stack = random_stack(seed)
    masks = make(stack)
    assert torch.equal(to_stack(masks, SIZE), stack)
    assert torch.equal(masks.count_pixels(), stack.flatten(1).sum(1))
    assert torch.equal(to_stack(masks.flip(0, SIZE), SIZE), stack.flip(1))
    assert torch.equal(to_stack(masks.flip(1, SIZE), SIZE), stack.flip(2))
    assert torch.equal(to_stack(masks.transpose(), SIZE[::-1]), stack.mT)
    kept = torch.tensor([True, False, True, False, False, True])
    assert torch.equal(to_stack(masks.select(kept), SIZE), stack[kept])
    order = torch.tensor([4, 0, 4])
    assert torch.equal(to_stack(masks.select(order), SIZE), stack[order])
    joined = InstanceMasks.cat((masks, masks.select(order)))
    assert torch.equal(to_stack(joined, SIZE), torch.cat((stack, stack[order])))
    crop = masks.crop((3, 2, 11, 12))
    assert torch.equal(to_stack(crop, (10, 8)), stack[:, 2:12, 3:11])
    assert bool((crop.windows >= 0).all())
    moved = masks.translate(2, 5)
    assert torch.equal(to_stack(moved, (18, 19)), torch.nn.functional.pad(stack, (2, 0, 5, 0)))
    # A crop that starts outside the image pads it.
    around = masks.crop((-2, -5, 30, 30))
    assert torch.equal(to_stack(around, (18, 19)), to_stack(moved, (18, 19)))


@pytest.mark.parametrize("size", [(5, 40), (26, 34), (13, 9), (1, 1), (27, 50), (12, 16)])
def test_resize_equals_resizing_the_full_mask(size: tuple[int, int]) -> None:
    for seed in range(5):
        stack = random_stack(seed)
        for masks in (from_stack(stack), loose_masks(stack)):
            resized = masks.resize(SIZE, size)
            expected = [resize_labels(mask.numpy(), size) for mask in stack]
            assert np.array_equal(to_stack(resized, size).numpy(), np.stack(expected))


def test_objects_without_a_mask_stay_unannotated() -> None:
    bitmap = torch.ones(2, 2, dtype=torch.bool)
    masks = InstanceMasks.from_bitmaps([bitmap, None], [(1, 1), (0, 0)])
    for moved in (
        masks.crop((1, 1, 2, 2)),
        masks.flip(0, (5, 5)),
        masks.transpose(),
        masks.resize((5, 5), (10, 10)),
        masks.translate(3, 3),
        masks.to("cpu"),
        InstanceMasks.cat([masks]),
    ):
        assert moved.annotated.tolist() == [True, False]
        assert moved.windows[1].tolist() == [0, 0, 0, 0]
    # An annotated mask that leaves the image stays annotated: nothing of the object is visible.
    gone = masks.crop((4, 4, 5, 5))
    assert gone.annotated.tolist() == [True, False]
    assert gone.windows.tolist() == [[0, 0, 0, 0]] * 2
    assert masks.select(torch.tensor([1])).annotated.tolist() == [False]


def test_images_without_objects() -> None:
    masks = InstanceMasks.from_bitmaps([], [])
    for empty in (
        masks,
        masks.crop((0, 0, 1, 1)),
        masks.flip(1, (5, 5)),
        masks.transpose(),
        masks.resize((5, 5), (3, 3)),
        masks.select(torch.zeros(0, dtype=torch.bool)),
        InstanceMasks.cat((masks, masks)),
        from_stack(torch.zeros(0, 4, 4, dtype=torch.bool)),
    ):
        assert len(empty) == 0
        assert empty.windows.shape == (0, 4)
        assert empty.bitmaps == []
        assert empty.compute_boxes().shape == (0, 4)
        assert empty.count_pixels().tolist() == []


def test_mismatched_tensors_are_rejected() -> None:
    windows, flags = torch.tensor([[0, 0, 2, 2]]), torch.tensor([True])
    with pytest.raises(ValueError, match="holds 3 pixels, but the windows have 4"):
        InstanceMasks(windows, torch.ones(3, dtype=torch.bool), flags)
    with pytest.raises(ValueError, match=r"pixels is torch.uint8 of shape \(4,\); expected"):
        InstanceMasks(windows, torch.ones(4, dtype=torch.uint8), flags)
    with pytest.raises(ValueError, match=r"annotated is torch.bool of shape \(1,\); .*\(2,\)"):
        InstanceMasks(windows.repeat(2, 1), torch.ones(8, dtype=torch.bool), flags)
