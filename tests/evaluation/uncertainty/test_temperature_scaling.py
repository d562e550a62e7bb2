"""Scaling: temperatures are found again, order stays, and what cannot be fitted is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty.calibration_error import compute_ece
from resnet_tasks.evaluation.uncertainty.temperature_scaling import (
    ClassDecisionCollector,
    DetectionDecisionCollector,
    PixelDecisionCollector,
    TemperatureScaling,
)
from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap


def overconfident_map(seed: int, factor: float) -> tuple[SegmentationMap, GroundTruth]:
    """Labels drawn from the softmax of logits; the model says `factor` times those logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (3, 40, 50))
    probs = np.exp(logits) / np.exp(logits).sum(0)
    truth = (rng.random((40, 50)) > np.cumsum(probs, axis=0)[:2, None].reshape(2, 40, 50)).sum(0)
    truth[:4] = VOID
    said = torch.from_numpy(logits * factor).float().softmax(0)
    return (
        SegmentationMap(said.argmax(0), said),
        GroundTruth(seed, (40, 50), semantic=truth.astype(np.int64)),
    )


def test_the_temperature_of_pixels_is_found_again() -> None:
    decisions = PixelDecisionCollector()
    for seed in range(8):
        decisions.update(*overconfident_map(seed, 2.5))
    found = decisions.fit()
    assert found.field == "logits"
    assert found.temperature == pytest.approx(2.5, rel=0.08)
    assert decisions.number == 8 * 500
    again = PixelDecisionCollector()
    for seed in range(8):
        again.update(*overconfident_map(seed, 2.5))
    assert again.fit() == found


def test_slope_and_intercept_of_detections_are_found_again() -> None:
    """Hits come with probability sigmoid(0.5 logit(score) - 1), boxes far apart."""
    rng = np.random.default_rng(0)
    decisions = DetectionDecisionCollector()
    before, after, hits_seen = [], [], []
    for image in range(60):
        scores = np.sort(rng.uniform(0.02, 0.98, 50))[::-1].copy()
        chance = 1 / (1 + np.exp(-(0.5 * np.log(scores / (1 - scores)) - 1)))
        hits = rng.random(50) < chance
        boxes = np.stack([np.arange(50) * 20.0, np.zeros(50)], 1)
        xyxy = torch.from_numpy(np.concatenate((boxes, boxes + 10), 1)).float()
        labels = torch.zeros(50, dtype=torch.int64)
        found = Detections(xyxy, torch.from_numpy(scores).float(), labels)
        xywh = np.concatenate((boxes, np.full((50, 2), 10.0)), 1)[hits]
        truth = GroundTruth(image, (10, 1000), xywh, np.zeros(len(xywh), np.int64))
        decisions.update(found, truth)
        before.append(scores)
        hits_seen.append(hits)
    scaling = decisions.fit()
    assert scaling.slope == pytest.approx(0.5, rel=0.15)
    assert scaling.intercept == pytest.approx(-1, abs=0.12)
    raw = {"scores": torch.from_numpy(np.concatenate(before)), "boxes": torch.zeros(1)}
    after = scaling(raw)["scores"].double().numpy()
    came_true = np.concatenate(hits_seen)
    assert compute_ece(np.concatenate(before), came_true) > 0.2
    assert compute_ece(after, came_true) < 0.03


def test_classifiers_of_one_and_of_several_labels() -> None:
    rng = np.random.default_rng(2)
    single, several = ClassDecisionCollector(), ClassDecisionCollector()
    for i in range(3000):
        logits = rng.normal(0, 1.5, 4)
        probs = np.exp(logits) / np.exp(logits).sum()
        label = rng.choice(4, p=probs)
        said = torch.from_numpy(3 * logits).float()
        truth = GroundTruth(i, (1, 1), image_labels=np.array([label]))
        single.update(Classification(said.softmax(0)), truth)
        chosen = np.flatnonzero(rng.random(4) < 1 / (1 + np.exp(-logits)))
        truth = GroundTruth(i, (1, 1), image_labels=chosen)
        several.update(Classification(said.sigmoid(), is_multi_label=True), truth)
    assert single.fit().temperature == pytest.approx(3, rel=0.1)
    assert several.fit().temperature == pytest.approx(3, rel=0.1)
    assert (single.number, several.number) == (3000, 12000)


def test_scaling_keeps_the_order_and_the_padding() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.0, 1.0]])
    scaled = TemperatureScaling("scores", 0.3, 1.0)({"scores": scores, "valid": scores > 0})
    assert scaled["scores"][0].argsort().tolist() == scores[0].argsort().tolist()
    assert scaled["scores"][0, 2] == 0
    assert (scaled["scores"] <= 1).all()
    assert set(scaled) == {"scores", "valid"}
    same = TemperatureScaling("scores", 1.0)({"scores": scores})["scores"]
    assert same == pytest.approx(scores, abs=1e-6)
    logits = torch.randn(1, 3, 4, 4)
    assert torch.equal(TemperatureScaling("logits", 0.5)({"logits": logits})["logits"], logits / 2)


def test_scaling_is_the_same_for_arrays_and_tensors_and_skips_empty_slots() -> None:
    scores = np.array([[0.5, 0.8, 0.0, 1.0]], np.float32)
    valid = np.array([[True, False, True, True]])
    scaling = TemperatureScaling("scores", 2.0, 1.0)
    array = scaling({"scores": scores, "valid": valid})["scores"]
    tensor = scaling({"scores": torch.from_numpy(scores), "valid": torch.from_numpy(valid)})
    assert array.dtype == np.float32
    # sigmoid(2 logit(0.5) + 1); the second slot is empty; the third holds a real score of 0.
    assert array[0, 0] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)
    assert array[0, 1] == np.float32(0.8)
    assert 0 < array[0, 2] < 1e-12
    assert tensor["scores"].numpy() == pytest.approx(array, rel=1e-5)
    halved = TemperatureScaling("logits", 0.5)({"logits": np.array([[4.0, -2.0]])})["logits"]
    assert halved.tolist() == [[2.0, -1.0]]


def test_scaling_comes_back_from_json_and_names_a_missing_field() -> None:
    scaling = TemperatureScaling("logits", 0.4)
    assert TemperatureScaling.from_json(scaling.to_json()) == scaling
    assert scaling.to_json()["temperature"] == 2.5
    with pytest.raises(DataError, match=r"no output 'logits' to calibrate \(it has heat"):
        scaling({"heat": torch.zeros(1)})


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(DataError, match="only 0 decisions"):
        PixelDecisionCollector().fit()
    decisions = DetectionDecisionCollector()
    far = torch.arange(60).float()[:, None] * torch.tensor([20.0, 0, 20, 0])
    boxes = far + torch.tensor([0.0, 0, 10, 10])
    found = Detections(boxes, torch.linspace(0.9, 0.1, 60), torch.zeros(60, dtype=torch.int64))
    decisions.update(found, GroundTruth(1, (10, 1200), np.zeros((0, 4)), np.zeros(0, np.int64)))
    with pytest.raises(DataError, match="all 60 decisions to calibrate on are wrong"):
        decisions.fit()


def test_a_perfect_model_stops_at_the_limit() -> None:
    decisions = ClassDecisionCollector()
    for i in range(100):
        probs = torch.tensor([0.9, 0.1])
        decisions.update(Classification(probs), GroundTruth(i, (1, 1), image_labels=np.array([0])))
    assert 10 < decisions.fit().slope <= 20
