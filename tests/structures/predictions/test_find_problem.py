"""Predictions find the first of their rules that is broken."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.run_lengths import encode_rectangle

SIZE, NUM_CLASSES = (10, 20), 2


def boxes(*rows: tuple[float, ...], scores: Any = None, labels: Any = None) -> Detections:
    number = len(rows)
    return Detections(
        torch.tensor(rows).reshape(-1, 4).float(),
        torch.linspace(0.9, 0.1, number) if scores is None else scores,
        torch.zeros(number, dtype=torch.int64) if labels is None else labels,
    )


def instances(*rles: Any) -> InstanceSegmentation:
    """Two objects with these masks."""
    objects = boxes((0, 0, 20, 10), (1, 2, 3, 4))
    return InstanceSegmentation(objects.boxes, objects.scores, objects.labels, rles)


RLE = encode_rectangle([0, 0, 20, 10], SIZE)


def pixels(share: float = 0.25, **changes: Any) -> SegmentationMap:
    probs = np.full((NUM_CLASSES, *SIZE), 1 - share, np.float32)
    probs[0] = share
    fields: dict[str, Any] = {"labels": probs.argmax(0), "probs": probs, **changes}
    return SegmentationMap(**fields)


@pytest.mark.parametrize(
    "prediction",
    [
        boxes(),
        boxes((0, 0, 20, 10), (1, 2, 3, 4)),
        instances(RLE, encode_rectangle([1, 2, 1, 2], SIZE)),
        pixels(),
        pixels(probs=None, labels=np.ones(SIZE, np.uint8)),
        Classification(torch.tensor([0.25, 0.75])),
        Classification(torch.tensor([0.9, 0.9]), is_multi_label=True),
    ],
)
def test_valid_predictions_have_no_problem(prediction: Any) -> None:
    assert prediction.find_problem(SIZE, NUM_CLASSES) is None


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (
            boxes((0, 0, 1, 1), scores=torch.ones(2)),
            r"got \(1, 4\), \(2,\) and \(1,\)",
        ),
        (boxes((0, 0, 1, 1), labels=torch.zeros(1).int()), "labels int64, got .* and int32"),
        (boxes((0, 0, 20, 11)), "inside the original image of 10 x 20 pixels"),
        (boxes((5, 5, 5, 7)), "xyxy inside"),
        (boxes((0, 0, 1, 1), scores=torch.tensor([1.5])), "must lie in 0..1"),
        (boxes((0, 0, 1, 1), (0, 0, 2, 2), scores=torch.tensor([0.1, 0.9])), "descending"),
        (boxes((0, 0, 1, 1), scores=torch.tensor([float("nan")])), "must lie in 0..1"),
        (boxes((0, 0, 1, 1), labels=torch.tensor([2])), "indices into the 2 classes"),
        (instances(RLE), "one mask per box, got 1 mask for 2 boxes"),
        (
            instances(RLE, encode_rectangle([0, 0, 5, 5], (20, 10))),
            r"original image's, \[10, 20\], got \[20, 10\] for mask 1",
        ),
        (instances(RLE, {**RLE, "counts": RLE["counts"].decode()}), r"\(bytes\).* mask 1 are not"),
        (instances({**RLE, "counts": b"01"}, RLE), "all pixels of .* mask 0"),
        (pixels(labels=np.zeros((20, 10), np.int64)), r"size \(10, 20\), got int64 of .*20, 10"),
        (pixels(labels=np.zeros(SIZE, np.float32)), "labels must be integers"),
        (pixels(labels=np.full(SIZE, -1)), "indices into the 2 classes"),
        (pixels(probs=np.ones((3, *SIZE), np.float32)), r"\(2, 10, 20\), got float32 of .*\(3, 10"),
        (pixels(probs=np.full((2, *SIZE), 0.6, np.float32)), "sum to 1 over classes"),
        (pixels(-0.5), "must lie in 0..1"),
        (Classification(torch.ones(3)), r"shape \(2,\), one per class, got float32 .*\(3,\)"),
        (Classification(torch.tensor([1.5, -0.5])), "must lie in 0..1"),
        (Classification(torch.tensor([0.9, 0.9])), "unless `is_multi_label`, got 1.8"),
    ],
)
def test_the_first_broken_rule_is_named(prediction: Any, message: str) -> None:
    problem = prediction.find_problem(SIZE, NUM_CLASSES)
    assert problem is not None
    assert re.search(message, problem), problem
