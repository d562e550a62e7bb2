"""Masks in windows are transformed like masks of the full image, which albumentations computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resnet_tasks.data.augmentation.instance_masks import (
    _WINDOW_MOVES,
    join_masks,
    transform_masks,
)
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack, to_stack

SIZE = (37, 52)
REFLECT = {"border_mode": cv2.BORDER_REFLECT_101}
Steps = list[dict[str, dict[str, Any]]]

WINDOW_MOVES: list[tuple[str, dict[str, Any]]] = [
    ("NoOp", {}),
    ("HorizontalFlip", {}),
    ("VerticalFlip", {}),
    ("Transpose", {}),
    ("RandomRotate90", {}),
    ("D4", {}),
    ("SquareSymmetry", {}),
    ("Crop", {"x_min": 3, "y_min": 5, "x_max": 40, "y_max": 31}),
    ("Crop", {"x_min": 9, "y_min": 8, "x_max": 80, "y_max": 60, "pad_if_needed": True}),
    ("CenterCrop", {"height": 24, "width": 31}),
    ("CenterCrop", {"height": 60, "width": 31, "pad_if_needed": True, "pad_position": "random"}),
    ("RandomCrop", {"height": 24, "width": 31}),
    ("RandomCrop", {"height": 60, "width": 61, "pad_if_needed": True}),
    ("RandomCropFromBorders", {}),
    ("BBoxSafeRandomCrop", {}),
    ("AtLeastOneBBoxRandomCrop", {"height": 24, "width": 31}),
    ("CropNonEmptyMaskIfExists", {"height": 24, "width": 31}),
    ("Pad", {"padding": [3, 4, 5, 6]}),
    ("PadIfNeeded", {"min_height": 60, "min_width": 53, "position": "random"}),
    ("CropAndPad", {"percent": [-0.2, 0.2]}),
    ("CropAndPad", {"px": [-9, 9], "keep_size": False, "sample_independently": True}),
    ("CropAndPad", {"px": [[-5, -3], [2, 9], [-7, -1], [1, 4]], "keep_size": True}),
    ("Resize", {"height": 61, "width": 31}),
    ("RandomScale", {"scale_limit": [-0.5, 1.0]}),
    ("LongestMaxSize", {"max_size": 71}),
    ("SmallestMaxSize", {"max_size": 23}),
    ("RandomResizedCrop", {"size": [40, 33], "scale": [0.3, 0.9]}),
    ("RandomSizedCrop", {"min_max_height": [20, 30], "size": [40, 33]}),
    ("RandomSizedBBoxSafeCrop", {"height": 41, "width": 33}),
    ("CoarseDropout", {}),
    ("ConstrainedCoarseDropout", {"mask_indices": [3, 4]}),
    ("Erasing", {}),
    ("GridDropout", {}),
    ("XYMasking", {"num_masks_x": 1, "mask_x_length": 2}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("Affine", {"scale": [0.7, 1.2], "rotate": [-90, 90], "shear": [-10, 10]}),
    ("Affine", {"rotate": [-40, 40], "fit_output": True, "fill_mask": 1}),
    ("SafeRotate", {}),
    ("Perspective", {"scale": [0.02, 0.06], "keep_size": False}),
    ("ElasticTransform", {"alpha": 30, "sigma": 8}),
    ("GridDistortion", {}),
    ("ThinPlateSpline", {"scale_range": [0.02, 0.05]}),
    ("Morphological", {"scale": [3, 3]}),
    ("RandomGridShuffle", {"grid": [3, 3]}),
    ("PixelDropout", {"dropout_prob": 0.2, "mask_drop_value": 1}),
    ("CoarseDropout", {"fill_mask": 1}),
    # Paddings that are not background.
    ("PadIfNeeded", {"min_height": 60, "min_width": 80, **REFLECT}),
    ("Pad", {"padding": 7, "fill_mask": 1}),
    ("CropAndPad", {"px": [3, 9], **REFLECT}),
    ("RandomCrop", {"height": 60, "width": 80, "pad_if_needed": True, **REFLECT}),
]


def scene(seed: int) -> tuple[np.ndarray, torch.Tensor, Target]:
    """Return an image, a stack of five ragged masks and the target with these masks."""
    rng = np.random.default_rng(seed)
    stack = torch.zeros(5, *SIZE, dtype=torch.bool)
    boxes = []
    for mask in stack:
        y, x = rng.integers(0, (SIZE[0] - 12, SIZE[1] - 12))
        height, width = rng.integers(6, 13, 2)
        mask[y : y + height, x : x + width] = torch.from_numpy(rng.random((height, width)) < 0.8)
        boxes.append([x, y, x + width, y + height])
    stack[4] = False  # an object whose mask is empty
    semantic = torch.zeros(SIZE, dtype=torch.int64)
    for label, mask in enumerate(stack):
        semantic[mask] = label
    flags = torch.zeros(5, dtype=torch.bool)
    target = Target(
        torch.tensor(boxes, dtype=torch.float32),
        torch.arange(5),
        flags,
        from_stack(stack),
        semantic,
    )
    return rng.random((*SIZE, 3), dtype=np.float32), stack, target


def transform_stack(
    augment: Augmentation, image: np.ndarray, stack: torch.Tensor, target: Target, seed: int
) -> np.ndarray:
    """Return the `(N, h, w)` masks that albumentations makes of the full masks."""
    recorded: dict[str, Any] = {}
    compose = type(augment._compose).__call__

    def call(self: Any, **inputs: Any) -> Any:
        recorded.update(compose(self, **inputs, masks=stack.numpy().astype(np.uint8)))
        return recorded

    augment._keeps_objects = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(augment._compose), "__call__", call)
        augment(image, target, seed)
    return np.asarray(recorded["masks"]) > 0


@pytest.mark.parametrize(("name", "params"), WINDOW_MOVES + OTHERS)
def test_masks_equal_those_of_albumentations(name: str, params: dict[str, Any]) -> None:
    augment = Augmentation([{name: {**params, "p": 0.9}}])
    count = 0
    for seed in range(25):
        image, stack, target = scene(seed)
        moved, after = augment(image, target, seed)
        expected = transform_stack(
            Augmentation([{name: {**params, "p": 0.9}}]), image, stack, target, seed
        )
        assert after.masks is not None
        assert after.labels is not None
        actual = to_stack(after.masks, moved.shape[:2])
        # Labels are positions in the stack; objects outside the image are dropped with their masks.
        assert np.array_equal(actual.numpy(), expected[after.labels.numpy()])
        assert after.masks.annotated.all()
        count += len(after.masks)
    assert count > 50


def test_several_steps_in_a_row() -> None:
    steps: Steps = [
        {"HorizontalFlip": {}},
        {"RandomResizedCrop": {"size": [30, 41], "scale": [0.3, 0.9]}},
        {"GaussNoise": {}},
        {"Affine": {"rotate": [-30, 30]}},
        {"Transpose": {}},
        {"PadIfNeeded": {"min_height": 50, "min_width": 30}},
        {"D4": {}},
    ]
    for seed in range(40):
        image, stack, target = scene(seed)
        moved, after = Augmentation(steps)(image, target, seed)
        expected = transform_stack(Augmentation(steps), image, stack, target, seed)
        assert after.masks is not None
        assert after.labels is not None
        actual = to_stack(after.masks, moved.shape[:2])
        assert np.array_equal(actual.numpy(), expected[after.labels.numpy()])


def test_every_window_move_is_tested() -> None:
    augments = [Augmentation([{name: params}]) for name, params in WINDOW_MOVES]
    built = [augment._compose.transforms[-1] for augment in augments]
    near_box = {"RandomCropNearBBox"}  # needs an input of its own, which the pipeline never passes
    expected = {kind.__name__ for kind in _WINDOW_MOVES} - near_box
    assert {type(transform).__name__ for transform in built} == expected
    assert {type(transform) for transform in built} <= set(_WINDOW_MOVES)


@pytest.mark.parametrize("steps", [[{"RandomCrop": {"height": 20, "width": 20}}], [{"Affine": {}}]])
def test_objects_without_a_mask_stay_unannotated(steps: Steps) -> None:
    augment = Augmentation(steps)
    for seed in range(20):
        image, stack, target = scene(seed)
        bitmaps = [mask if i % 2 else None for i, mask in enumerate(stack)]
        masks = InstanceMasks.from_bitmaps(bitmaps, [(0, 0)] * 5)
        after = augment(image, replace(target, masks=masks), seed)[1]
        assert after.masks is not None
        assert after.labels is not None
        assert after.masks.annotated.tolist() == [bool(i % 2) for i in after.labels.tolist()]
        assert (after.masks.areas[after.labels % 2 == 0] == 0).all()


def test_crop_keeps_an_object_whose_box_is_visible_but_whose_mask_is_not() -> None:
    bitmap = torch.ones(2, 2, dtype=torch.bool)
    target = Target(
        torch.tensor([[0.0, 0, 10, 10]]),
        torch.tensor([0]),
        torch.tensor([False]),
        InstanceMasks.from_bitmaps([bitmap], [(8, 8)]),
    )
    crop = {"x_min": 0, "y_min": 0, "x_max": 5, "y_max": 5, "p": 1.0}
    after = Augmentation([{"Crop": crop}])(np.zeros((10, 10, 3), np.float32), target, 0)[1]
    assert after.boxes is not None
    assert after.masks is not None
    assert torch.allclose(after.boxes, torch.tensor([[0.0, 0, 5, 5]]))
    assert after.masks.annotated.tolist() == [True]
    assert after.masks.windows.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    "steps",
    [
        [{"CropNonEmptyMaskIfExists": {"height": 20, "width": 20, "p": 1.0}}],
        [{"PixelDropout": {"mask_drop_value": 1, "dropout_prob": 0.2, "p": 1.0}}],
    ],
)
def test_parameters_that_depend_on_masks(steps: Steps) -> None:
    """Without a label map, albumentations draws the crop from the stack of masks."""
    for seed in range(20):
        image, stack, target = scene(seed)
        target = replace(target, semantic=None)
        moved, after = Augmentation(steps)(image, target, seed)
        reference = Augmentation(steps)
        reference._needs_masks = False
        expected = transform_stack(reference, image, stack, target, seed)
        assert after.masks is not None
        assert after.labels is not None
        actual = to_stack(after.masks, moved.shape[:2])
        assert np.array_equal(actual.numpy(), expected[after.labels.numpy()])


def test_one_full_mask_at_a_time() -> None:
    """A transform without a window move sees one `(h, w)` mask per annotated object."""
    shapes = []

    class Recording:
        def apply_to_mask(self, mask: np.ndarray, **_: Any) -> np.ndarray:
            shapes.append(mask.shape)
            return mask

    masks = scene(0)[2].masks
    assert masks is not None
    same = transform_masks(Recording(), masks, {"shape": (*SIZE, 3)})
    assert shapes == [SIZE] * 5
    assert torch.equal(to_stack(same, SIZE), to_stack(masks, SIZE))
    # The results share no memory with the full masks, which would otherwise all be kept.
    assert same.pixels.untyped_storage().nbytes() == len(same.pixels)


def test_join_masks() -> None:
    _, stack, target = scene(3)
    assert target.masks is not None
    assert np.array_equal(join_masks(target.masks, SIZE), stack.any(0).numpy().astype(np.uint8))
