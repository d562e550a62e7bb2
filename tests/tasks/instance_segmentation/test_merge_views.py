"""Instances of several views: boxes fused as those of detections, masks decided by vote."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import encode_rectangle
from resnet_tasks.tasks.detection.merge_views import fuse_detections
from resnet_tasks.tasks.instance_segmentation.merge_views import fuse_instances

SIZE = (60, 60)
Row = tuple[float, float, float, float, float, int]


def view(*rows: Row) -> InstanceSegmentation:
    values = np.asarray(rows, np.float64).reshape(-1, 6)
    return InstanceSegmentation(
        values[:, :4].astype(np.float32),
        values[:, 4].astype(np.float32),
        values[:, 5].astype(np.int64),
        tuple(encode_rectangle(row[:4], SIZE) for row in rows),
    )


def test_masks_by_hand() -> None:
    """Scores 0.8, 0.4, 0.2: the first view alone has more than half of 1.4."""
    views = [
        view((0, 0, 20, 20, 0.8, 0)),
        view((0, 0, 24, 20, 0.4, 0)),
        view((0, 0, 26, 20, 0.2, 0)),
    ]
    merged = fuse_instances(views)
    assert merged.segmentations == (encode_rectangle([0, 0, 20, 20], SIZE),)
    # With equal scores, the pixels of two of three views are kept.
    equal = [view((0, 0, x, 20, 0.5, 0)) for x in (20, 24, 26)]
    assert fuse_instances(equal).segmentations == (encode_rectangle([0, 0, 24, 20], SIZE),)
    # Half of the scores is enough.
    assert fuse_instances(equal[:2]).segmentations == (encode_rectangle([0, 0, 24, 20], SIZE),)


def test_boxes_and_scores_equal_those_of_detections() -> None:
    rng = np.random.default_rng(0)
    views = []
    for _ in range(4):
        low = rng.uniform(0, 40, (12, 2))
        rows = np.concatenate((low, low + rng.uniform(5, 20, (12, 2))), axis=1)
        scores = np.sort(rng.random(12))[::-1]
        labels = rng.integers(0, 2, 12)
        views.append(view(*((*r, s, k) for r, s, k in zip(rows, scores, labels, strict=True))))
    merged = fuse_instances(views)
    boxes = fuse_detections([Detections(v.boxes, v.scores, v.labels) for v in views])
    assert (merged.boxes == boxes.boxes).all()
    assert (merged.scores == boxes.scores).all()
    assert len(merged.segmentations) == len(boxes) == 12


def test_objects_of_one_view_keep_their_mask_and_classes_do_not_mix() -> None:
    views = [view((0, 0, 20, 20, 0.8, 0)), view((0, 0, 22, 20, 0.6, 1))]
    merged = fuse_instances(views)
    # At most as many objects as the view with the most.
    assert len(merged) == 1
    assert merged.segmentations == views[0].segmentations
    assert merged.scores.tolist() == pytest.approx([0.4])
    assert len(fuse_instances([view(), view()])) == 0
