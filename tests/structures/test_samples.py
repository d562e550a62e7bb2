"""Geometry, label tables, batches: hand-computed cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import ABSENT, IGNORED, UNLABELED, VOID
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import (
    CLASSIFICATION,
    DETECTION,
    SEMANTIC_SEGMENTATION,
    LabelTable,
    LossTerm,
    Sample,
    Target,
    collate,
)


def test_resize_maps_boxes_there_and_back() -> None:
    geometry = Geometry.from_resize((100, 200), (50, 50))  # y halves, x quarters
    boxes = torch.tensor([[8.0, 10, 40, 30]])
    there = geometry.boxes_to_input(boxes)
    assert there.tolist() == [[2, 5, 10, 15]]
    assert geometry.boxes_to_original(there).tolist() == boxes.tolist()


def test_horizontal_flip_swaps_corners() -> None:
    geometry = Geometry((10, 20), (10, 20), scale=(1, -1), offset=(0, 20))
    there = geometry.boxes_to_input(torch.tensor([[2.0, 1, 5, 4]]))
    assert there.tolist() == [[15, 1, 18, 4]]
    assert geometry.boxes_to_original(there).tolist() == [[2, 1, 5, 4]]


def test_flip_with_resize_on_both_axes() -> None:
    geometry = Geometry((10, 20), (20, 10), scale=(-2, -0.5), offset=(20, 10))
    there = geometry.boxes_to_input(torch.tensor([[4.0, 1, 8, 3]]))
    assert there.tolist() == [[6, 14, 8, 18]]
    assert geometry.boxes_to_original(there).tolist() == [[4, 1, 8, 3]]


def test_boxes_are_clipped_to_the_image_on_both_sides() -> None:
    geometry = Geometry.from_resize((10, 20), (20, 40))
    assert geometry.boxes_to_input(torch.tensor([[-3.0, -1, 25, 9]])).tolist() == [[0, 0, 40, 18]]
    padded = torch.tensor([[30.0, 10, 64, 32]])  # reaches into the padding
    assert geometry.boxes_to_original(padded).tolist() == [[15, 5, 20, 10]]


def test_no_boxes_stay_no_boxes() -> None:
    geometry = Geometry.from_resize((10, 20), (20, 40))
    assert geometry.boxes_to_input(torch.zeros(0, 4)).shape == (0, 4)
    assert geometry.boxes_to_original(torch.zeros(0, 4)).shape == (0, 4)


def test_dense_map_loses_its_padding() -> None:
    dense = torch.full((1, 4, 4), 9.0)
    dense[0, :2, :3] = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    geometry = Geometry.from_resize((2, 3), (2, 3))
    assert geometry.map_to_original(dense)[0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_dense_map_is_flipped_back() -> None:
    dense = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]])
    geometry = Geometry((2, 3), (2, 3), scale=(-1, -1), offset=(2, 3))
    assert geometry.map_to_original(dense)[0].tolist() == [[6, 5, 4], [3, 2, 1]]


def test_dense_map_is_resized_between_pixel_centers() -> None:
    dense = torch.tensor([[[0.0, 4.0]]])
    made = Geometry.from_resize((1, 4), (1, 2)).map_to_original(dense)
    assert made[0, 0].tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("offset", [(-2.0, 0.0), (0.0, -3.0)])
def test_dense_map_of_a_crop_is_refused(offset: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no full inverse"):
        Geometry((8, 8), (4, 4), offset=offset).map_to_original(torch.zeros(1, 4, 4))


def test_label_table_ignores_unknown_objects_and_removes_absent_ones() -> None:
    table = LabelTable(("b", "a"), mapping=(1, IGNORED, 0, ABSENT))
    target = Target(
        boxes=torch.arange(20.0).reshape(5, 4),
        labels=torch.tensor([0, 1, 2, 3, 2]),
        ignore=torch.tensor([False, False, False, False, True]),
        masks=torch.eye(5, dtype=torch.bool)[:, :, None],
    )
    seen = table.apply(target)
    assert seen.boxes is not None
    assert seen.labels is not None
    assert seen.ignore is not None
    assert seen.masks is not None
    assert seen.boxes[:, 0].tolist() == [0, 4, 8, 16]
    assert seen.labels[~seen.ignore].tolist() == [1, 0]
    assert seen.ignore.tolist() == [False, True, False, True]
    assert seen.masks[:, :, 0].int().argmax(1).tolist() == [0, 1, 2, 4]
    assert target.labels is not None
    assert target.labels.tolist() == [0, 1, 2, 3, 2]  # the batch keeps its own labels


@pytest.mark.parametrize(("unlabeled", "expected"), [(VOID, VOID), (0, 0)])
def test_label_table_on_pixels(unlabeled: int, expected: int) -> None:
    table = LabelTable(("background", "a"), (1, IGNORED, ABSENT), unlabeled)
    seen = table.apply(Target(semantic=torch.tensor([[0, 1, 2, VOID, UNLABELED]])))
    assert seen.semantic is not None
    assert seen.semantic.tolist() == [[1, VOID, VOID, VOID, expected]]


def test_label_table_on_image_labels_and_without_annotations() -> None:
    table = LabelTable(("a",), (IGNORED, 0))
    seen = table.apply(Target(image_labels=torch.tensor([1, 0])))
    assert seen.image_labels is not None
    assert seen.image_labels.tolist() == [0, IGNORED]  # known, but not to this head
    absent = LabelTable(("a",), (ABSENT, 0)).apply(Target(image_labels=torch.tensor([1, 0])))
    assert absent.image_labels is not None
    assert absent.image_labels.tolist() == [0]
    assert seen.boxes is None
    assert seen.semantic is None


def test_identity_table_changes_nothing() -> None:
    target = Target(boxes=torch.zeros(2, 4), labels=torch.tensor([1, 0]))
    seen = LabelTable.identity(("a", "b")).apply(target)
    assert seen.labels is not None
    assert seen.labels.tolist() == [1, 0]


def sample(height: int, width: int, target: Target, image_id: int = 0) -> Sample:
    size = (height, width)
    image = torch.full((3, *size), 0.5)
    return Sample(image, Geometry(size, size), image_id, f"{image_id}.png", target, image_id + 100)


def test_collate_pads_right_and_below() -> None:
    masks = torch.ones(2, 5, 33, dtype=torch.bool)
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
    assert target.masks.shape == (2, 64, 64)
    assert target.masks.dtype == torch.bool
    assert target.masks.sum() == 2 * 5 * 33
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
    assert batch.find_annotated(DETECTION) == (1,)
    assert batch.find_annotated(SEMANTIC_SEGMENTATION) == (2,)
    assert batch.find_annotated(CLASSIFICATION) == ()


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


def test_a_task_may_need_a_field_of_the_users_own() -> None:
    task = type(DETECTION)("depth", ("depth",))
    assert Target(extra={"depth": torch.zeros(1)}).has_fields_for(task)
    assert not Target().has_fields_for(task)


def test_loss_term_mean() -> None:
    value = torch.tensor(6.0, requires_grad=True)
    assert LossTerm(value, torch.tensor(4.0)).mean().item() == 1.5
    empty = LossTerm(value, torch.tensor(0.0)).mean()
    empty.backward()
    assert empty.item() == 0
    assert value.grad is not None
    assert value.grad.item() == 0
