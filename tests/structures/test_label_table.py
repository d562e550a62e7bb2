"""Label tables: hand-computed cases."""

from __future__ import annotations

import pytest
import torch

from resnet_tasks.structures.evaluation import ABSENT, IGNORED, UNLABELED, VOID
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack


def test_label_table_ignores_unknown_objects_and_removes_absent_ones() -> None:
    table = LabelTable(("b", "a"), mapping=(1, IGNORED, 0, ABSENT))
    target = Target(
        boxes=torch.arange(20.0).reshape(5, 4),
        labels=torch.tensor([0, 1, 2, 3, 2]),
        ignore=torch.tensor([False, False, False, False, True]),
        masks=from_stack(torch.eye(5, dtype=torch.bool)[:, :, None]),
    )
    seen = table.apply(target)
    assert seen.boxes is not None
    assert seen.labels is not None
    assert seen.ignore is not None
    assert seen.masks is not None
    assert seen.boxes[:, 0].tolist() == [0, 4, 8, 16]
    assert seen.labels[~seen.ignore].tolist() == [1, 0]
    assert seen.ignore.tolist() == [False, True, False, True]
    assert seen.masks.windows[:, 1].tolist() == [0, 1, 2, 4]
    assert seen.masks.pixels.tolist() == [True] * 4
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


def test_ignore_region_of_the_whole_image_has_no_mask() -> None:
    target = Target(
        boxes=torch.tensor([[1.0, 1, 3, 3]]),
        labels=torch.tensor([0]),
        ignore=torch.tensor([False]),
        masks=InstanceMasks.from_bitmaps([torch.ones(2, 2, dtype=torch.bool)], [(1, 1)]),
        unannotated=torch.tensor([1]),
    )
    seen = LabelTable.identity(("a", "b")).apply(target, (8, 9))
    assert seen.ignore is not None
    assert seen.masks is not None
    assert seen.ignore.tolist() == [False, True]
    assert seen.masks.annotated.tolist() == [True, False]
    assert seen.masks.windows.tolist() == [[1, 1, 3, 3], [0, 0, 0, 0]]
    assert len(seen.masks.pixels) == 4
