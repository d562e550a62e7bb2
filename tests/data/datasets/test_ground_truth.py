"""Annotations as evaluators take them: in original pixels, in the labels of a head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.data.datasets.targets import has_annotations_for
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.dataset_protocols import HasTruth
from resnet_tasks.structures.evaluation import IGNORED, VOID
from resnet_tasks.structures.label_table import LabelTable
from tests.support.hand_written import IDENTITY, coco, labeled, made


def test_truth_is_in_original_pixels_as_in_the_file(tmp_path: Path) -> None:
    data = made(coco(tmp_path), preparation=Preparation(resize=Resize(4, 4)))
    assert isinstance(data, HasTruth)
    truth = data.truth(2, IDENTITY)
    assert truth.size == (8, 12)
    assert truth.boxes_xywh is not None
    assert truth.boxes_xywh.tolist() == [[9, 5, 6, 6]]  # exactly: not clipped
    truth = data.truth(0, LabelTable(("car", "dog"), (1, 0, IGNORED)))
    assert truth.labels is not None
    assert truth.crowd is not None
    assert truth.areas is not None
    assert truth.labels.tolist() == [1, 0]
    assert truth.crowd.tolist() == [False, True]
    assert truth.areas.tolist() == [4, 16]
    assert truth.semantic is not None
    assert truth.semantic.shape == (8, 12)
    assert truth.semantic[0, 0] == VOID  # road, unknown to this head
    nothing = data.truth(1, IDENTITY).boxes_xywh
    assert nothing is not None
    assert nothing.shape == (0, 4)


def test_truth_tells_group_spacing_visibility_and_unknown_objects(tmp_path: Path) -> None:
    file = coco(tmp_path)
    record = replace(file.images[0], group="p1", spacing=(0.5, 2.0))
    seen = [each for each in file.annotations[record.id] if each.bbox is not None]
    names = [file.categories.names[each.category] for each in seen]
    assert sorted(names) == ["car", "dog", "road"]
    hidden = tuple(replace(each, occluded=2.0 if i == 2 else None) for i, each in enumerate(seen))
    file = replace(file, annotations={**file.annotations, record.id: hidden})
    truth = build_truth(file, record, 1, (0, 1, 2))
    assert (truth.group, truth.spacing, truth.other_categories) == ("p1", (0.5, 2.0), ())
    assert truth.occluded is not None
    assert np.array_equal(truth.occluded, [np.nan, np.nan, 2.0], equal_nan=True)
    assert truth.truncated is None
    assert truth.other_positions is not None
    assert truth.other_positions.tolist() == []
    middle = seen[1].category
    mapping = [IGNORED if category == middle else category for category in range(3)]
    truth = build_truth(file, record, 1, mapping)
    assert truth.other_positions is not None
    assert truth.other_positions.tolist() == [1]  # one object stands before it
    truth = build_truth(file, record, 1, (IGNORED, IGNORED, IGNORED))
    assert truth.other_categories == tuple(names)
    assert truth.other_boxes_xywh is not None
    assert truth.other_boxes_xywh.tolist() == [list(each.bbox) for each in seen if each.bbox]


def test_image_labels_are_not_annotated_unless_said(tmp_path: Path) -> None:
    file = labeled(tmp_path, ["boxes"])
    assert file.count_problems() == {"no_box": 4}
    dataset = CocoDataset([file], categories=file.categories)
    assert dataset[0].target.image_labels is None
    assert not has_annotations_for(("image_labels",), file)
    assert dataset.truth(0, LabelTable.identity(file.categories.names)).image_labels is None


def test_truth_of_image_labels_in_a_heads_own_labels(tmp_path: Path) -> None:
    file = labeled(tmp_path, ["image"])
    dataset = CocoDataset([file], categories=file.categories)
    table = LabelTable(("road", "car"), (IGNORED, 1, 0))
    truths = [dataset.truth(i, table) for i in range(3)]
    assert [each.image_labels.tolist() for each in truths] == [[IGNORED, 0], [], [1]]
    assert truths[0].boxes_xywh is None
