from __future__ import annotations

from dataclasses import replace

import numpy as np

from resnet_tasks.report.box_matching import PredictedBoxes, match_boxes
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.run_lengths import encode_rectangle


def found(*rows: tuple[list[float], int, float]) -> PredictedBoxes:
    boxes = np.asarray([row[0] for row in rows], np.float64).reshape(-1, 4)
    labels = np.asarray([row[1] for row in rows], np.int64)
    return PredictedBoxes(boxes, labels, np.asarray([row[2] for row in rows], np.float64))


def truth(boxes: list[list[float]], labels: list[int], crowd: list[bool]) -> GroundTruth:
    return GroundTruth(
        image_id=1,
        size=(100, 100),
        boxes_xywh=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        crowd=np.asarray(crowd, np.bool_),
    )


def test_a_truth_is_found_once_by_the_best_box_of_its_class() -> None:
    boxes = found(
        ([0, 0, 10, 10], 0, 0.9),  # finds the first
        ([1, 0, 10, 10], 0, 0.8),  # overlaps it too, but it is taken
        ([20, 0, 10, 10], 1, 0.7),  # right place, wrong class
        ([20, 0, 10, 5], 0, 0.6),  # IoU exactly 0.5
        ([20, 0, 10, 4.9], 0, 0.5),  # taken, and too small
        ([62, 62, 5, 5], 0, 0.4),  # inside a crowd
        ([62, 62, 5, 5], 1, 0.3),  # inside a crowd of another class
    )
    present = truth(
        [[0, 0, 10, 10], [20, 0, 10, 10], [60, 60, 30, 30]], [0, 0, 0], [False, False, True]
    )
    assert match_boxes(boxes, present).tolist() == [0, -1, -1, 1, -1, -2, -1]
    assert match_boxes(boxes, truth([], [], [])).tolist() == [-1] * 7
    assert match_boxes(found(), present).tolist() == []


def test_masks_decide_where_both_have_them() -> None:
    """Equal boxes: the mask of the first object fills 60 of 100 pixels of the true one."""

    def mask(x: float, y: float, right: float, bottom: float) -> dict[str, object]:
        return dict(encode_rectangle([x, y, right, bottom], (100, 100)))

    boxes = found(
        ([0, 0, 10, 10], 0, 0.9),
        ([20, 0, 10, 10], 0, 0.8),  # the mask fills 40 pixels only
        ([60, 60, 10, 10], 0, 0.7),  # half of its mask lies in the box of an object without one
    )
    masked = replace(boxes, masks=(mask(0, 0, 10, 6), mask(20, 0, 30, 4), mask(60, 60, 70, 70)))
    present = truth(
        [[0, 0, 10, 10], [20, 0, 10, 10], [60, 65, 10, 10]], [0, 0, 0], [False, False, False]
    )
    with_masks = replace(present, segmentations=(mask(0, 0, 10, 10), mask(20, 0, 30, 10), None))
    assert match_boxes(masked, with_masks).tolist() == [0, -1, -2]
    assert match_boxes(masked, present).tolist() == match_boxes(boxes, present).tolist()
    assert match_boxes(boxes, with_masks).tolist() == [0, 1, -1]
