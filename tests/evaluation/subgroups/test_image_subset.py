"""A subset of an evaluation equals an evaluation of these images alone, for every evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from resnet_tasks.evaluation.classification.multi_label import MultiLabelEvaluator
from resnet_tasks.evaluation.classification.single_label import ClassificationEvaluator
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator, FrocOptions
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator, KittiOptions
from resnet_tasks.evaluation.protocols.surface_distance import SurfaceEvaluator, SurfaceOptions
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.evaluation.subgroups import image_subset
from resnet_tasks.evaluation.subgroups.image_subset import ImageSubset, find_positions
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

CLASSES = ("car", "bus", "tram")
Pair = tuple[Any, GroundTruth]


def draw_boxes(rng: np.random.Generator, image_id: int) -> Pair:
    number = int(rng.integers(0, 5))
    boxes = np.concatenate([rng.integers(0, 60, (number, 2)), rng.integers(20, 60, (number, 2))], 1)
    labels = rng.integers(0, 3, number)
    corners = boxes + np.concatenate([np.zeros((number, 2)), boxes[:, :2]], 1)
    shifted = torch.tensor(corners + rng.integers(-3, 4, corners.shape), dtype=torch.float32)
    scores = torch.tensor(rng.integers(1, 10, number) / 10, dtype=torch.float32)
    found = Detections(shifted, scores, torch.tensor((labels + (rng.random(number) < 0.2)) % 3))
    truth = GroundTruth(
        image_id,
        (200, 200),
        boxes.astype(np.float64),
        labels,
        np.zeros(number, np.bool_),
        boxes[:, 2:].prod(1).astype(np.float64),
    )
    return found, truth


def draw_map(rng: np.random.Generator, image_id: int) -> Pair:
    labels = rng.integers(0, 3, (6, 7))
    predicted = torch.tensor(np.where(rng.random((6, 7)) < 0.7, labels, 0))
    truth = GroundTruth(image_id, (6, 7), semantic=labels)
    return SegmentationMap(predicted, torch.zeros(1, 6, 7)), truth


def draw_label(rng: np.random.Generator, image_id: int, *, is_multi: bool) -> Pair:
    probs = torch.tensor(rng.dirichlet(np.ones(3)), dtype=torch.float32)
    labels = np.flatnonzero(rng.random(3) < 0.4) if is_multi else rng.integers(0, 3, 1)
    truth = GroundTruth(image_id, (8, 8), image_labels=labels.astype(np.int64))
    return Classification(probs, is_multi), truth


KINDS: dict[str, tuple[Callable[[], Any], Callable[[np.random.Generator, int], Pair]]] = {
    "boxes": (lambda: DetectionEvaluator(CLASSES), draw_boxes),
    "froc": (lambda: FrocEvaluator(CLASSES, FrocOptions()), draw_boxes),
    "kitti": (lambda: KittiEvaluator(CLASSES, KittiOptions()), draw_boxes),
    "semantic": (lambda: SegmentationEvaluator(CLASSES), draw_map),
    "surface": (lambda: SurfaceEvaluator(CLASSES, SurfaceOptions()), draw_map),
    "single label": (
        lambda: ClassificationEvaluator(CLASSES),
        lambda rng, image_id: draw_label(rng, image_id, is_multi=False),
    ),
    "multi label": (
        lambda: MultiLabelEvaluator(CLASSES),
        lambda rng, image_id: draw_label(rng, image_id, is_multi=True),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_subset_equals_an_evaluation_of_its_images(kind: str) -> None:
    build, draw = KINDS[kind]
    rng = np.random.default_rng(3)
    pairs = [draw(rng, image_id) for image_id in range(30)]
    positions = np.asarray([2, 3, 5, 11, 17, 18, 29])
    everything, alone = build(), build()
    for position, pair in enumerate(pairs):
        everything.update(*pair)
        if position in positions:
            alone.update(*pair)
    expected = alone.compute()
    subset = ImageSubset(everything, everything.compute(), positions)
    assert subset.image_ids == alone.image_ids
    metrics = subset.compute()
    counts = rng.integers(0, 3, (5, len(positions)))
    resampled, other = subset.resample(counts), alone.resample(counts)
    assert metrics.keys() == resampled.keys() & expected.keys()
    assert metrics
    for name, metric in metrics.items():
        assert metric.value == pytest.approx(expected[name].value, abs=1e-12), name
        assert metric.per_class == pytest.approx(dict(expected[name].per_class), abs=1e-12), name
        assert metric.unit == expected[name].unit
        np.testing.assert_allclose(resampled[name], other[name], atol=1e-12)


def test_rows_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    evaluator = SegmentationEvaluator(CLASSES)
    for image_id in range(8):
        evaluator.update(*draw_map(rng, image_id))
    subset = ImageSubset(evaluator, evaluator.compute(), np.asarray([1, 4, 6]))
    counts = rng.integers(0, 3, (7, 3))
    expected = subset.resample(counts)
    monkeypatch.setattr(image_subset, "COUNTS_AT_ONCE", 16)  # two rows of 8 images
    for name, values in subset.resample(counts).items():
        np.testing.assert_array_equal(values, expected[name])


def test_positions_by_subgroup() -> None:
    found = find_positions((7, "a", 9, 4), {7: "x", "a": "y", 9: "x", 4: "z", 5: "unused"})
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "x": [0, 2],
        "y": [1],
        "z": [3],
    }
