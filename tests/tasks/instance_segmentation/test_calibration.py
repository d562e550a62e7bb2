"""Calibration of instances: hits are those of the masks."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty.calibration_error import DetectionCalibration, compute_ece
from resnet_tasks.evaluation.uncertainty.temperature_scaling import DetectionDecisionCollector
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import encode_rectangle
from resnet_tasks.tasks.instance_segmentation.calibration import (
    MaskCalibration,
    extract_mask_decisions,
)

SIZE = (40, 50)
OBJECTS = np.asarray([[0.0, 0.0, 20.0, 20.0], [25.0, 0.0, 20.0, 20.0]])


def instances(*rows: tuple[float, list[float], list[float], int]) -> InstanceSegmentation:
    """Rows of score, box, rectangle of the mask, label."""
    return InstanceSegmentation(
        np.asarray([box for _, box, _, _ in rows], np.float32).reshape(-1, 4),
        np.asarray([score for score, *_ in rows], np.float32),
        np.asarray([label for *_, label in rows], np.int64),
        tuple(encode_rectangle(mask, SIZE) for _, _, mask, _ in rows),
    )


def truth(image_id: int = 1, *, masked: tuple[bool, bool] = (True, True)) -> GroundTruth:
    masks = tuple(
        encode_rectangle([x, y, x + w, y + h], SIZE) if has_mask else None
        for (x, y, w, h), has_mask in zip(OBJECTS.tolist(), masked, strict=True)
    )
    return GroundTruth(image_id, SIZE, OBJECTS, np.zeros(2, np.int64), segmentations=masks)


PREDICTION = instances(
    (0.9, [0, 0, 20, 20], [0, 0, 20, 9], 0),  # mask IoU 0.45
    (0.8, [0, 0, 20, 20], [0, 0, 20, 12], 0),  # mask IoU 0.6
    (0.7, [25, 0, 45, 20], [25, 0, 45, 20], 1),  # another class
    (0.6, [25, 0, 45, 20], [25, 0, 45, 20], 0),
    (0.5, [25, 0, 45, 20], [25, 0, 45, 20], 0),  # duplicate
)


def test_hits_by_hand() -> None:
    scores, hits = extract_mask_decisions(PREDICTION, truth())
    assert scores == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert hits.tolist() == [False, True, False, True, False]
    evaluator = MaskCalibration(("a", "b"))
    evaluator.update(PREDICTION, truth())
    expected = compute_ece(scores, hits)
    assert evaluator.compute()["mask_D_ECE"].value == pytest.approx(expected)
    # By boxes, the first one is the hit.
    boxes = DetectionCalibration(("a", "b"))
    boxes.update(PREDICTION, truth())
    assert boxes.compute()["D_ECE"].value != pytest.approx(expected)


def test_objects_without_a_mask_are_crowd_regions() -> None:
    scores, hits = extract_mask_decisions(PREDICTION, truth(masked=(True, False)))
    assert scores == pytest.approx([0.9, 0.8, 0.7])
    assert hits.tolist() == [False, True, False]


def test_images_without_masks_are_skipped_and_counted() -> None:
    evaluator = MaskCalibration(("a", "b"))
    evaluator.update(PREDICTION, truth(1))
    value = evaluator.compute()
    evaluator.update(PREDICTION, truth(2, masked=(False, False)))
    assert evaluator.compute() == value
    assert evaluator.image_ids == (1,)
    assert evaluator.details()["notes"] == ["mask_D_ECE excludes 1 image without annotated masks."]
    with pytest.raises(DataError, match="image 5 has no annotated boxes"):
        extract_mask_decisions(PREDICTION, GroundTruth(5, SIZE))


def test_a_scaling_is_fitted_to_the_hits_of_masks() -> None:
    """All boxes are right, but three of four masks are wrong: scores of 0.9 are too high."""
    collector = DetectionDecisionCollector(extract_mask_decisions)
    for image_id in range(40):
        top = 20 if image_id % 4 == 0 else 5
        prediction = instances(
            (0.9, [0, 0, 20, 20], [0, 0, 20, top], 0), (0.8, [25, 0, 45, 20], [25, 0, 45, top], 0)
        )
        collector.update(prediction, truth(image_id))
    assert collector.number == 80
    scaling = collector.fit()
    assert scaling.field == "scores"
    scores = scaling({"scores": np.asarray([[0.9, 0.8]], np.float32)})["scores"]
    assert scores.mean() == pytest.approx(0.25, abs=0.02)
