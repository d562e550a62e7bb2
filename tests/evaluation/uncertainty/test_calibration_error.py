"""Calibration error by hand, per image sums, and the table of what abstaining gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty.calibration_error import (
    DetectionCalibration,
    PixelCalibration,
    compute_ece,
)
from resnet_tasks.structures.evaluation import VOID, GroundTruth, ResamplableEvaluator
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap


def two_pixels(
    image_id: int, confidence: float, *, right: bool
) -> tuple[SegmentationMap, GroundTruth]:
    """Class 0 at `confidence` on both pixels; the second pixel is void."""
    probs = torch.tensor([[[confidence] * 2], [[1 - confidence] * 2]], dtype=torch.float64)
    truth = np.array([[0 if right else 1, VOID]], np.int64)
    return SegmentationMap(probs.argmax(0), probs), GroundTruth(image_id, (1, 2), semantic=truth)


def test_error_of_a_hand_computed_case() -> None:
    """Bin (0.8, 0.867]: 0.85, 0.85, 0.85 with 2 of 3 right; bin (0.933, 1]: 1.0 right."""
    confidence = np.array([0.85, 0.85, 0.85, 1.0])
    came_true = np.array([True, True, False, True])
    expected = (3 * abs(2 / 3 - 0.85) + 1 * 0) / 4
    assert compute_ece(confidence, came_true) == pytest.approx(expected)
    judge = PixelCalibration(("a", "b"))
    for number, (each, right) in enumerate(zip(confidence, came_true, strict=True)):
        judge.update(*two_pixels(number, each, right=bool(right)))
    metric = judge.compute()["ECE"]
    assert metric.value == pytest.approx(expected)
    assert metric.lower_is_better
    found = judge.details()
    assert found["reliability"]["count"] == [3, 1]
    assert found["reliability"]["confidence"] == pytest.approx([0.85, 1.0])
    assert found["reliability"]["accuracy"] == pytest.approx([2 / 3, 1.0])


def test_abstaining_table_by_hand() -> None:
    judge = PixelCalibration(("a", "b"))
    for number, (confidence, right) in enumerate(
        [(0.55, False), (0.6, True), (0.75, False), (0.95, True)]
    ):
        judge.update(*two_pixels(number, confidence, right=right))
    table = judge.details()["abstention"]
    rows = {
        cut: (kept, risk)
        for cut, kept, risk in zip(
            table["confidence"], table["coverage"], table["risk"], strict=True
        )
    }
    assert rows[0.0] == (1.0, 0.5)
    assert rows[0.6] == (0.75, pytest.approx(1 / 3))
    assert rows[0.8] == (0.25, 0.0)
    assert rows[0.95] == (0.25, 0.0)
    assert 0.99 not in rows


def test_resampled_errors_are_those_of_repeated_images() -> None:
    images = [(0.85, True), (0.85, False), (0.99, True), (0.6, False)]
    judge = PixelCalibration(("a", "b"))
    for number, (confidence, right) in enumerate(images):
        judge.update(*two_pixels(number, confidence, right=right))
    assert isinstance(judge, ResamplableEvaluator)
    counts = np.array([[1, 1, 1, 1], [3, 0, 0, 1], [0, 2, 2, 0], [0, 0, 0, 0]])
    values = judge.resample(counts)["ECE"]
    for row, value in zip(counts[:3], values[:3], strict=True):
        drawn = np.repeat(np.arange(4), row)
        confidence = np.array([images[i][0] for i in drawn])
        came_true = np.array([images[i][1] for i in drawn])
        assert value == pytest.approx(compute_ece(confidence, came_true))
    assert values[0] == judge.compute()["ECE"].value
    assert np.isnan(values[3])


def detections(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 10 x 10 pixels at (x, 0): (x, score, label)."""
    boxes = torch.tensor([[x, 0.0, x + 10, 10.0] for x, _, _ in rows]).reshape(-1, 4)
    scores = torch.tensor([score for _, score, _ in rows], dtype=torch.float64)
    return Detections(boxes, scores, torch.tensor([label for _, _, label in rows]).long())


def test_detections_come_true_by_cocos_rule() -> None:
    """A hit, its duplicate, a wrong class, one on a crowd (left out), one beside everything."""
    truth = GroundTruth(
        1,
        (10, 400),
        boxes_xywh=np.array([[0.0, 0, 10, 10], [100, 0, 10, 10], [200, 0, 50, 10]]),
        labels=np.array([0, 1, 0]),
        crowd=np.array([False, False, True]),
    )
    found = detections((0, 0.95, 0), (1, 0.85, 0), (100, 0.75, 0), (210, 0.55, 0), (300, 0.35, 1))
    judge = DetectionCalibration(("a", "b"))
    judge.update(found, truth)
    gaps = [abs(1 - 0.95), 0.85, 0.75, 0.35]
    assert judge.compute()["D_ECE"].value == pytest.approx(sum(gaps) / 4)
    assert judge.details()["reliability"]["count"] == [1, 1, 1, 1]
    assert judge.details()["abstention"]["coverage"][:2] == [1.0, 0.75]
    assert judge.details()["abstention"]["risk"][:2] == pytest.approx([3 / 4, 2 / 3])


def test_no_decision_is_no_number() -> None:
    judge = DetectionCalibration(("a",))
    assert judge.compute()["D_ECE"].value is None
    empty = GroundTruth(1, (10, 10), np.zeros((0, 4)), np.zeros(0, np.int64))
    judge.update(detections(), empty)
    assert judge.compute()["D_ECE"].value is None
    assert judge.details()["abstention"]["coverage"] == []


def test_what_is_not_annotated_is_refused() -> None:
    with pytest.raises(DataError, match="no annotated boxes"):
        DetectionCalibration(("a",)).update(detections(), GroundTruth(3, (10, 10)))
    prediction, _ = two_pixels(1, 0.9, right=True)
    with pytest.raises(DataError, match=r"image 3: .* not annotated"):
        PixelCalibration(("a", "b")).update(prediction, GroundTruth(3, (1, 2)))
    small = GroundTruth(3, (1, 1), semantic=np.zeros((1, 1), np.int64))
    with pytest.raises(DataError, match=r"size \(1, 2\)"):
        PixelCalibration(("a", "b")).update(prediction, small)
