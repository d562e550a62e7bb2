"""Intensity, resizing, augmentation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.augmentation.transforms import Augmentation, decode_labels, encode_labels
from resnet_tasks.data.images.intensity import Intensity, Resize, resize_pixels
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.structures.evaluation import UNLABELED, VOID
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack, to_stack

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3)).astype(np.uint8)
DEEP_GRAY = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)
DEEP_COLOR = RNG.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
TURNED = Image.Exif()
TURNED[274] = 6  # to be shown turned by 90 degrees clockwise


# --- Intensity -----------------------------------------------------------------------------------


def test_auto_divides_by_the_range_of_the_type() -> None:
    assert Intensity()(np.asarray([[[0], [51], [255]]], np.uint8)).ravel().tolist() == (
        pytest.approx([0, 0.2, 1])
    )
    assert Intensity()(np.asarray([[[0], [13107], [65535]]], np.uint16)).ravel().tolist() == (
        pytest.approx([0, 0.2, 1])
    )
    kept = np.asarray([[[0.25]]], np.float32)
    assert Intensity()(kept).item() == 0.25
    assert Intensity()(kept.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_whole_value_is_the_nearest_float_to_its_fraction(kind: Any) -> None:
    values = np.arange(np.iinfo(kind).max + 1).astype(kind)
    exact = (values.astype(np.float64) / np.iinfo(kind).max).astype(np.float32)
    assert np.array_equal(Intensity()(values.reshape(1, -1, 1)).ravel(), exact)


def test_window_on_large_whole_numbers_is_exact() -> None:
    values = np.asarray([[[2**30], [2**30 + 5], [2**30 + 10]]], np.int32)
    made = Intensity("window", level=2**30 + 5, width=10)(values)
    assert made.ravel().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("value", [1.5, -0.5])
def test_auto_refuses_floats_of_unknown_range(value: float) -> None:
    with pytest.raises(DataError, match=r"ct\.tif holds float32 .*set data.intensity"):
        Intensity()(np.asarray([[[0.5], [value]]], np.float32), "ct.tif")


def test_window_maps_level_and_width() -> None:
    values = np.asarray([[[-200], [-160], [40], [140], [240], [900]]], np.int16)
    made = Intensity("window", level=40, width=400)(values)
    assert made.ravel().tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])
    assert made.dtype == np.float32


def test_percentile_maps_the_images_own_range() -> None:
    values = np.arange(0, 1010, 10, dtype=np.uint16).reshape(1, 101, 1)
    made = Intensity("percentile", low=10, high=90)(values).ravel()
    assert made[[0, 10, 50, 90, 100]].tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    assert (Intensity("percentile")(np.full((2, 2, 1), 7, np.uint16)) == 0).all()


def test_percentiles_of_each_channel_by_itself() -> None:
    ramp = np.arange(0, 1010, 10, dtype=np.uint16).reshape(1, 101, 1)
    values = np.concatenate((ramp, ramp * 50), axis=2)
    step = Intensity("percentile", low=10, high=90, per_channel=True)
    alone = Intensity("percentile", low=10, high=90)
    for channel in range(2):
        one = np.ascontiguousarray(values[:, :, channel : channel + 1])
        assert np.allclose(step(values)[:, :, channel : channel + 1], alone(one), atol=1e-6)
    assert not np.allclose(alone(values), step(values))
    assert step(values).dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["auto", "window", "percentile"])
def test_not_a_number_is_refused(kind: Any, value: float) -> None:
    with pytest.raises(DataError, match=r"a\.tif holds values that are not finite"):
        Intensity(kind, level=0, width=1)(np.asarray([[[value]]], np.float32), "a.tif")


# --- Resizing ------------------------------------------------------------------------------------


def test_resize_keeps_the_ratio_inside_the_box() -> None:
    assert Resize(100, 100).compute_size((480, 640)) == (75, 100)
    assert Resize(100, 1000).compute_size((50, 60)) == (100, 120)
    assert Resize(100, 90, keep_ratio=False).compute_size((480, 640)) == (100, 90)
    assert Resize(32, 32).compute_size((1, 1000)) == (1, 32)


def test_pixels_shrink_by_area() -> None:
    image = np.asarray([[0, 2], [4, 6]], np.float32)[:, :, None]
    assert resize_pixels(image, (1, 1)).tolist() == [[[3.0]]]
    assert resize_pixels(image, (2, 2)) is image


@pytest.mark.parametrize("size", [(10, 10), (40, 40)])
@pytest.mark.parametrize("channels", [1, 4, 5, 64])
def test_any_number_of_channels_is_resized(size: tuple[int, int], channels: int) -> None:
    image = RNG.random((20, 20, channels)).astype(np.float32)
    made = resize_pixels(image, size)
    assert made.shape == (*size, channels)
    last = resize_pixels(np.ascontiguousarray(image[:, :, -1:]), size)
    assert np.allclose(made[:, :, -1:], last, atol=1e-6)


def test_labels_are_never_mixed() -> None:
    labels = np.asarray([[1, 9], [9, 1]], np.uint8)
    assert resize_labels(labels, (4, 4)).tolist() == [
        [1, 1, 9, 9],
        [1, 1, 9, 9],
        [9, 9, 1, 1],
        [9, 9, 1, 1],
    ]


def test_labels_survive_encoding() -> None:
    for largest, kind in ((253, np.uint8), (254, np.uint16)):
        labels = np.asarray([[VOID, UNLABELED, 0, largest]])
        encoded = encode_labels(labels)
        assert encoded.dtype == kind
        assert decode_labels(encoded).tolist() == labels.tolist()
    assert encode_labels(np.asarray([VOID])).tolist() == [0]


# --- Augmentation --------------------------------------------------------------------------------


def scene() -> tuple[Any, Target]:
    """4 x 6 pixels: object A at the top left, object B at the bottom right."""
    image = np.zeros((4, 6, 3), np.float32)
    image[0:2, 0:1] = 1.0
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, 0:2, 0:1] = True
    masks[1, 3:4, 4:6] = True
    semantic = torch.full((4, 6), UNLABELED)
    semantic[masks[0]] = 7
    semantic[masks[1]] = VOID
    boxes = torch.tensor([[0.0, 0, 1, 2], [4, 3, 6, 4]])
    labels, ignore = torch.tensor([5, 6]), torch.tensor([False, True])
    fields = (boxes, labels, ignore, from_stack(masks), semantic)
    return image, Target(*fields, extra={"patient": 3})


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("HorizontalFlip", 1, [[5, 0, 6, 2], [0, 3, 2, 4]]),
        ("VerticalFlip", 0, [[0, 2, 1, 4], [4, 0, 6, 1]]),
    ],
)
def test_everything_flips_together(name: str, axis: int, expected: list[Any]) -> None:
    image, target = scene()
    new, moved = Augmentation([{name: {"p": 1.0}}])(image, target, 0)
    assert np.array_equal(new, np.flip(image, axis))
    assert moved.boxes is not None
    assert moved.labels is not None
    assert moved.ignore is not None
    assert moved.masks is not None
    assert moved.semantic is not None
    assert target.masks is not None
    assert target.semantic is not None
    assert torch.allclose(moved.boxes, torch.tensor(expected).float(), atol=1e-5)
    assert moved.labels.tolist() == [5, 6]
    assert moved.ignore.tolist() == [False, True]
    assert torch.equal(to_stack(moved.masks, (4, 6)), to_stack(target.masks, (4, 6)).flip(axis + 1))
    assert torch.equal(moved.semantic, target.semantic.flip(axis))
    assert moved.extra == {"patient": 3}


def test_crop_drops_an_object_with_all_of_its_fields() -> None:
    image, target = scene()
    crop = Augmentation([{"Crop": {"x_min": 3, "y_min": 1, "x_max": 6, "y_max": 4, "p": 1.0}}])
    new, left = crop(image, target, 0)
    assert new.shape == (3, 3, 3)
    assert left.boxes is not None
    assert left.labels is not None
    assert left.ignore is not None
    assert left.masks is not None
    assert left.semantic is not None
    assert torch.allclose(left.boxes, torch.tensor([[1.0, 2, 3, 3]]), atol=1e-5)
    assert left.labels.tolist() == [6]
    assert left.ignore.tolist() == [True]
    assert to_stack(left.masks, (3, 3)).int().tolist() == [[[0, 0, 0], [0, 0, 0], [0, 1, 1]]]
    assert left.semantic.shape == (3, 3)


def test_box_across_the_edge_of_a_crop_is_clipped() -> None:
    image, target = scene()
    crop = Augmentation([{"Crop": {"x_min": 0, "y_min": 0, "x_max": 5, "y_max": 4, "p": 1.0}}])
    boxes = crop(image, target, 0)[1].boxes
    assert boxes is not None
    assert torch.allclose(boxes, torch.tensor([[0.0, 0, 1, 2], [4, 3, 5, 4]]), atol=1e-5)


def left_of(box: list[float], width: int) -> Target:
    """What a crop to the first columns leaves of one object."""
    target = Target(torch.tensor([box]), torch.tensor([0]), torch.tensor([False]))
    crop = {"x_min": 0, "y_min": 0, "x_max": width, "y_max": 20, "p": 1.0}
    return Augmentation([{"Crop": crop}])(np.zeros((20, 40, 3), np.float32), target, 0)[1]


@pytest.mark.parametrize(
    ("box", "width", "stays"),
    [
        ([9.5, 2, 20, 8], 10, False),  # half a pixel is left
        ([9, 2, 20, 8], 10, True),  # one
        ([10 - 1e-7, 2, 20, 8], 10, False),  # nothing, in float32
        ([2, 2.0, 2.5, 8], 10, True),  # as narrow as ever
        ([9.75, 2.0, 10.25, 8], 10, True),  # narrow, and cut
    ],
)
def test_slivers_that_a_crop_leaves_are_no_objects(
    box: list[float], width: int, stays: bool
) -> None:
    left = left_of(box, width)
    assert left.boxes is not None
    assert left.labels is not None
    assert left.ignore is not None
    assert len(left.boxes) == len(left.labels) == len(left.ignore) == int(stays)


def test_random_crops_leave_boxes_with_an_area() -> None:
    """Of 60,000 cars cut by crops in float32, some are cut to nothing."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (400, 2))
    boxes = np.concatenate((corners, corners + rng.uniform(1, 30, (400, 2))), axis=1)
    boxes = torch.tensor(np.minimum(boxes, 64).round(2), dtype=torch.float32)
    target = Target(boxes, torch.arange(400), torch.zeros(400, dtype=torch.bool))
    crop = Augmentation([{"RandomResizedCrop": {"size": [48, 56], "scale": [0.2, 0.7]}}])
    for seed in range(150):
        made = crop(np.zeros((64, 64, 3), np.float32), target, seed)[1]
        assert made.boxes is not None
        assert made.labels is not None
        sides = made.boxes[:, 2:] - made.boxes[:, :2]
        assert (sides > 0).all()
        assert len(made.labels) == len(made.boxes) > 20


def test_warp_pulls_in_void() -> None:
    image, target = scene()
    shift = Augmentation([{"Affine": {"translate_px": {"x": [2, 2], "y": [0, 0]}, "p": 1.0}}])
    semantic = shift(image, target, 0)[1].semantic
    assert semantic is not None
    assert (semantic[:, :2] == VOID).all()
    assert semantic[:, 2].tolist() == [7, 7, UNLABELED, UNLABELED]


def test_empty_boxes_and_absent_fields_stay_so() -> None:
    image = np.zeros((4, 6, 3), np.float32)
    crop = Augmentation([{"Crop": {"x_min": 0, "y_min": 0, "x_max": 3, "y_max": 3, "p": 1.0}}])
    none = torch.zeros(0, dtype=torch.int64)
    empty = Target(torch.zeros(0, 4), none, none.bool(), InstanceMasks.from_bitmaps([], []))
    made = crop(image, empty, 0)[1]
    assert made.boxes is not None
    assert made.labels is not None
    assert made.masks is not None
    assert made.boxes.shape == (0, 4)
    assert made.labels.shape == (0,)
    assert len(made.masks) == 0
    assert made.semantic is None
    unannotated = crop(image, Target(), 0)[1]
    assert unannotated.boxes is None
    assert unannotated.labels is None


def test_the_seed_alone_decides() -> None:
    image = RNG.random((16, 16, 3)).astype(np.float32)
    steps = [{"Affine": {"rotate": [-45, 45], "p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}]
    augment = Augmentation(steps)
    first = augment(image, Target(), 2**62 + 1)[0]
    other = augment(image, Target(), 2**62 + 2)[0]
    assert np.array_equal(augment(image, Target(), 2**62 + 1)[0], first)
    assert np.array_equal(Augmentation(steps)(image, Target(), 2**62 + 1)[0], first)
    assert not np.array_equal(other, first)


def test_sixteen_bits_survive_augmentation() -> None:
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1) * 16
    steps = [{"HorizontalFlip": {"p": 1.0}}, {"RandomBrightnessContrast": {"p": 1.0}}]
    new = Augmentation(steps)(Intensity()(stored), Target(), 3)[0]
    assert new.dtype == np.float32
    assert new.shape == (64, 64, 1)
    assert len(np.unique(new)) > 1000
    assert 0 <= new.min() <= new.max() <= 1


def test_unknown_transform_and_parameter_name_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"augment\.1: 'HorizontlFlip'.*did you mean 'HorizontalFlip'"
    ):
        Augmentation([{"VerticalFlip": {}}, {"HorizontlFlip": {}}])
    with pytest.raises(RecipeError, match=r"augment\.0\.Affine: .*'rotat', did you mean 'rotate'"):
        Augmentation([{"Affine": {"rotat": 3}}])
    with pytest.raises(RecipeError, match=r"augment\.0\.HorizontalFlip: .*less than or equal to 1"):
        Augmentation([{"HorizontalFlip": {"p": 3}}])
    with pytest.raises(RecipeError, match=r"augment\.0\.RandomCrop: .*height"):
        Augmentation([{"RandomCrop": {}}])


def test_transform_that_refuses_the_channels_is_explained() -> None:
    with pytest.raises(RecipeError, match=r"augment: .*\(8, 8, 5\).*remove that transform"):
        Augmentation([{"CLAHE": {"p": 1.0}}])(np.zeros((8, 8, 5), np.float32), Target(), 0)


def test_transforms_draw_independently_of_each_other() -> None:
    """Two flips of p=0.5 give all four orientations, about equally often."""
    augment = Augmentation([{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}])
    image = np.zeros((4, 4, 3), np.float32)
    image[0, 0] = 1.0
    seen = Counter(
        tuple(np.argwhere(augment(image, Target(), seed)[0][:, :, 0])[0].tolist())
        for seed in range(200)
    )
    assert set(seen) == {(0, 0), (0, 3), (3, 0), (3, 3)}
    assert min(seen.values()) > 25


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_many_channels_move_together(channels: int) -> None:
    image = RNG.random((20, 30, channels), dtype=np.float32)
    steps = [{"HorizontalFlip": {"p": 1.0}}, {"Transpose": {"p": 1.0}}]
    new = Augmentation(steps, channels)(image, Target(), 0)[0]
    assert np.array_equal(new, image[:, ::-1].transpose(1, 0, 2))
    warped = Augmentation([{"Affine": {"rotate": (30, 30), "p": 1.0}}], channels)
    assert warped(image, Target(), 0)[0].shape == image.shape


@pytest.mark.parametrize(
    ("name", "channels", "allowed"),
    [
        ("ColorJitter", 5, "3 or 1"),
        ("HueSaturationValue", 2, "3"),
        ("CLAHE", 4, "3 or 1"),
        ("RandomFog", 7, "3"),
        ("ISONoise", 1, "3"),
        ("ChannelDropout", 1, "3"),
    ],
)
def test_color_transform_is_refused_when_the_recipe_is_built(
    name: str, channels: int, allowed: str
) -> None:
    steps = [{"HorizontalFlip": {}}, {name: {"p": 0.01}}]
    wanted = (
        rf"augment\.1\.{name} supports only images of {allowed} channels, but data.channels is "
    )
    with pytest.raises(RecipeError, match=f"{wanted}{channels}; remove this"):
        Augmentation(steps, channels)
    Augmentation(steps, 3)


@pytest.mark.parametrize("name", ["FromFloat", "ToTensorV2"])
def test_transform_that_makes_something_else_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="remove the transform that changes channels or type"):
        Augmentation([{name: {"p": 1.0}}])(np.zeros((8, 8, 3), np.float32), Target(), 0)


MOVES = ["HorizontalFlip", "VerticalFlip", "Transpose", "RandomRotate90", "D4"]


@pytest.mark.parametrize(
    "steps",
    [
        [{name: {"p": 0.7}} for name in MOVES],
        [{"RandomCrop": {"height": 9, "width": 11, "p": 0.5}}, {"HorizontalFlip": {"p": 0.5}}],
        [{"CenterCrop": {"height": 9, "width": 11}}, {"VerticalFlip": {"p": 0.5}}],
        [{"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {"p": 0.7}}],
        [{"HorizontalFlip": {}}, {"Affine": {"rotate": [-90, 90], "p": 0.7}}, {"Transpose": {}}],
        [{"RandomGamma": {"p": 0.7}}, {"HorizontalFlip": {"p": 0.5}}],
        [{"GaussNoise": {"p": 1.0}}],
    ],
)
def test_eight_bits_give_what_their_floats_give(steps: list) -> None:
    """The same randomness, values to the bit, annotations to the bit."""
    stored = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    floats = Intensity()(stored)
    target = Target(
        boxes=torch.tensor([[1.0, 2.0, 9.5, 8.0], [15.0, 4.0, 29.0, 19.5]]),
        labels=torch.tensor([3, 1]),
        semantic=torch.from_numpy(RNG.integers(0, 4, (20, 30))),
    )
    augment = Augmentation(steps)
    for seed in range(30):
        made, one = augment(stored, target, seed)
        expected, other = augment(floats, target, seed)
        values = made if made.dtype == np.float32 else Intensity()(made)
        np.testing.assert_array_equal(values, expected)
        assert values.min() >= 0
        assert values.max() <= 1
        for name in ("boxes", "labels", "semantic"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_only_moved_bytes_stay_bytes() -> None:
    stored = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    moved = Augmentation([{name: {"p": 1.0}} for name in MOVES])(stored, Target(), 0)[0]
    assert moved.dtype == np.uint8
    noise = [{"HorizontalFlip": {"p": 1.0}}, {"GaussNoise": {"p": 0.0}}]
    assert Augmentation(noise)(stored, Target(), 0)[0].dtype == np.float32


@pytest.mark.parametrize("name", ["RandomToneCurve", "UnsharpMask", "RandomGamma", "GaussNoise"])
def test_values_stay_within_the_unit_range(name: str) -> None:
    image = RNG.random((20, 30, 3), dtype=np.float32)
    for seed in range(10):
        made = Augmentation([{name: {"p": 1.0}}])(image, Target(), seed)[0]
        assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize(
    ("steps", "is_short"),
    [
        ([{name: {"p": 0.7}} for name in MOVES], True),
        ([{"HorizontalFlip": {}}, {"GaussNoise": {}}, {"Transpose": {}}], True),
        ([{"HorizontalFlip": {}}, {"RandomCrop": {"height": 12, "width": 12}}], False),
        ([{"HorizontalFlip": {}}, {"Affine": {"scale": [1, 2]}}], False),
    ],
)
def test_the_short_way_is_that_of_compose(steps: list, *, is_short: bool) -> None:
    """Where all objects stay whole: the same draws, and annotations to rounding."""
    image = RNG.random((20, 30, 3), dtype=np.float32)
    target = Target(
        boxes=torch.tensor(
            [[1.0, 2.0, 9.5, 8.0], [15.0, 4.0, 29.0, 19.5], [20.3, 0.1, 44.0, 31.0]]
        ),
        labels=torch.tensor([3, 1, 2]),
        masks=from_stack(torch.from_numpy(RNG.random((3, 20, 30)) > 0.5)),
        semantic=torch.from_numpy(RNG.integers(0, 4, (20, 30))),
    )
    augment, always = Augmentation(steps), Augmentation(steps)
    assert augment._keeps_objects is is_short
    always._keeps_objects = False
    for seed in range(60):
        (made, one), (expected, other) = (each(image, target, seed) for each in (augment, always))
        np.testing.assert_array_equal(made, expected)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=1e-5)
        for name in ("labels", "semantic"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        first, second = (to_stack(each.masks, made.shape[:2]) for each in (one, other))
        assert torch.equal(first, second)


@pytest.mark.parametrize("steps", [[{"HorizontalFlip": {"p": 1.0}}], [{"Affine": {"p": 1.0}}]])
def test_images_without_objects(steps: list) -> None:
    image = np.zeros((20, 30, 3), np.float32)
    made = Augmentation(steps)(image, Target(boxes=torch.zeros(0, 4)), 0)[1]
    assert made.boxes is not None
    assert made.boxes.shape == (0, 4)
    assert Augmentation(steps)(image, Target(), 0)[1].boxes is None
