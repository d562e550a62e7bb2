"""Box evaluation: hand-computed cases, and equality with pycocotools on files."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO as REFERENCE
from pycocotools.cocoeval import COCOeval

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.tasks import get_task

NAMES = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"]
NAMES += ["AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"]
BACKENDS = pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])


def found(*rows: tuple[Sequence[float], float, int]) -> Detections:
    """Rows of (xyxy, score, label)."""
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float32),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )


def truth(
    *rows: tuple[Sequence[float], int],
    image_id: int | str = 1,
    crowd: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
) -> GroundTruth:
    """Rows of (xywh, label)."""
    return GroundTruth(
        image_id,
        (200, 200),
        np.asarray([row[0] for row in rows], np.float64).reshape(-1, 4),
        np.asarray([row[1] for row in rows], np.int64),
        None if crowd is None else np.asarray(crowd, np.bool_),
        None if areas is None else np.asarray(areas, np.float64),
    )


def values(evaluator: DetectionEvaluator) -> dict[str, float | None]:
    return {name: metric.value for name, metric in evaluator.compute().items()}


# --- Hand-computed -------------------------------------------------------------------------------


@BACKENDS
def test_perfect_is_one(backend: str) -> None:
    evaluator = DetectionEvaluator(("a", "b"), backend=backend)
    evaluator.update(
        found(((0, 0, 20, 20), 0.9, 0), ((50, 50, 100, 100), 0.8, 1)),
        truth(((0, 0, 20, 20), 0), ((50, 50, 50, 50), 1)),
    )
    metrics = evaluator.compute()
    assert list(metrics) == NAMES
    for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AR_1", "AR_10", "AR_100"):
        assert metrics[name].value == pytest.approx(1.0, abs=1e-12)
    assert metrics["AP"].per_class == pytest.approx({"a": 1.0, "b": 1.0})
    assert metrics["AP_small"].per_class == {"a": pytest.approx(1.0), "b": None}
    assert metrics["AP_large"].value is None
    assert metrics["AR_large"].value is None


@BACKENDS
def test_all_wrong_is_zero(backend: str) -> None:
    evaluator = DetectionEvaluator(("a", "b"), backend=backend)
    evaluator.update(
        found(((100, 100, 120, 120), 0.9, 0), ((0, 0, 20, 20), 0.8, 1)),
        truth(((0, 0, 20, 20), 0)),
    )
    metrics = evaluator.compute()
    assert metrics["AP"].value == 0.0
    assert metrics["AR_100"].value == 0.0
    assert metrics["AP"].per_class == {"a": 0.0, "b": None}


@BACKENDS
def test_one_hit_and_one_miss(backend: str) -> None:
    """Recall reaches 1/2 at precision 1: 51 of the 101 recall levels."""
    evaluator = DetectionEvaluator(("a",), backend=backend)
    evaluator.update(
        found(((0, 0, 20, 20), 0.9, 0)), truth(((0, 0, 20, 20), 0), ((90, 90, 20, 20), 0))
    )
    metrics = values(evaluator)
    assert metrics["AP"] == pytest.approx(51 / 101, abs=1e-12)
    assert metrics["AR_100"] == 0.5


@BACKENDS
def test_overlap_decides_by_threshold(backend: str) -> None:
    """IoU 0.72 counts at 0.50 to 0.70, five of ten thresholds; a better-scored miss halves it."""
    evaluator = DetectionEvaluator(("a",), backend=backend)
    evaluator.update(found(((0, 0, 72, 100), 0.9, 0)), truth(((0, 0, 100, 100), 0)))
    metrics = values(evaluator)
    assert metrics["AP"] == pytest.approx(0.5, abs=1e-12)
    assert metrics["AP50"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["AP75"] == 0.0
    evaluator.update(found(((0, 0, 9, 9), 0.95, 0)), truth(image_id=2))
    assert values(evaluator)["AP50"] == pytest.approx(0.5, abs=1e-12)


@BACKENDS
def test_crowds_are_neither_found_nor_missed(backend: str) -> None:
    evaluator = DetectionEvaluator(("a",), backend=backend)
    evaluator.update(
        found(((100, 0, 120, 20), 0.9, 0), ((130, 0, 150, 20), 0.8, 0), ((0, 0, 20, 20), 0.7, 0)),
        truth(((0, 0, 20, 20), 0), ((90, 0, 90, 90), 0), crowd=[False, True]),
    )
    metrics = values(evaluator)
    assert metrics["AP"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["AR_100"] == 1.0


@BACKENDS
def test_size_classes_use_the_stated_area(backend: str) -> None:
    evaluator = DetectionEvaluator(("a",), backend=backend)
    evaluator.update(
        found(((0, 0, 100, 100), 0.9, 0)), truth(((0, 0, 100, 100), 0), areas=[1000.0])
    )
    metrics = values(evaluator)
    assert metrics["AP_small"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["AP_large"] is None


@BACKENDS
def test_limits_of_detections(backend: str) -> None:
    evaluator = DetectionEvaluator(("a",), backend=backend, max_detections=(1, 2))
    boxes = [(x, 0, x + 10, 10) for x in (0, 20, 40, 60)]
    evaluator.update(
        found(*[(box, 0.9 - i / 10, 0) for i, box in enumerate(boxes)]),
        truth(*[((box[0], 0, 10, 10), 0) for box in boxes]),
    )
    metrics = values(evaluator)
    assert (metrics["AR_1"], metrics["AR_2"]) == (0.25, 0.5)
    assert metrics["AP"] == pytest.approx(51 / 101, abs=1e-12)


# --- Nothing there -------------------------------------------------------------------------------


@BACKENDS
def test_no_predictions_and_no_truth(backend: str) -> None:
    evaluator = DetectionEvaluator(("a", "b"), backend=backend)
    assert set(values(evaluator).values()) == {None}
    evaluator.update(found(), truth(image_id="empty"))
    assert set(values(evaluator).values()) == {None}
    evaluator.update(found(((0, 0, 9, 9), 0.9, 0)), truth(image_id="only found"))
    assert values(evaluator)["AP"] is None
    evaluator.update(found(), truth(((0, 0, 9, 9), 1), image_id="only expected"))
    metrics = evaluator.compute()
    assert metrics["AP"].value == 0.0
    assert metrics["AP"].per_class == {"a": None, "b": 0.0}


@BACKENDS
def test_no_predictions_at_all(backend: str) -> None:
    evaluator = DetectionEvaluator(("a",), backend=backend)
    evaluator.update(found(), truth(((0, 0, 9, 9), 0)))
    assert values(evaluator)["AP"] == 0.0


# --- Equality ------------------------------------------------------------------------------------


def judged_by_reference(annotations: Path, results: Path) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        expected = REFERENCE(str(annotations))
        run = COCOeval(expected, expected.loadRes(str(results)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


@pytest.mark.parametrize("ties", [False, True])
def test_equals_pycocotools_on_the_real_files(
    shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], ties: bool
) -> None:
    path = shared_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    coco = read_coco(path)
    generator = np.random.default_rng(int(ties))
    evaluators = [
        DetectionEvaluator(coco.categories.names, backend=backend)
        for backend in ("hotcoco", "pycocotools")
    ]
    results = []
    for record in reversed(coco.images):  # The order of images must not matter.
        known = coco.annotations[record.id]
        boxes = np.array([each.bbox for each in known], np.float64).reshape(-1, 4)
        labels = np.array([each.category for each in known], np.int64)
        repeat = np.repeat(np.arange(len(known)), 3)
        jittered = boxes[repeat] + generator.normal(0, 4, (len(repeat), 4))
        jittered[:, 2:] = jittered[:, :2] + np.maximum(jittered[:, 2:], 1)
        guessed = generator.integers(0, 80, len(repeat))
        guessed = np.where(generator.random(len(repeat)) < 0.9, labels[repeat], guessed)
        scores = np.round(generator.random(len(repeat)), 1 if ties else 6)
        order = np.argsort(-scores, kind="stable")
        detections = Detections(
            torch.tensor(jittered[order], dtype=torch.float32),
            torch.tensor(scores[order], dtype=torch.float32),
            torch.tensor(guessed[order]),
        )
        crowd = np.array([each.is_crowd for each in known], np.bool_)
        areas = np.array([each.area for each in known], np.float64)
        size = (record.height, record.width)
        results += detections.to_results(record.id, coco.categories.ids)
        for evaluator in evaluators:
            evaluator.update(detections, GroundTruth(record.id, size, boxes, labels, crowd, areas))
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    expected = judged_by_reference(path, file)
    compiled, reference = (evaluator.compute() for evaluator in evaluators)
    assert [compiled[name].value for name in NAMES] == pytest.approx(expected, abs=1e-12)
    assert expected[0] > 0.2
    assert compiled == reference
    assert capfd.readouterr().out == ""


def test_backends_agree_on_random_cases() -> None:
    generator = np.random.default_rng(1)
    for _ in range(8):
        evaluators = [
            DetectionEvaluator(("a", "b", "c"), backend=backend)
            for backend in ("hotcoco", "pycocotools")
        ]
        for image_id in range(6):
            corners = generator.integers(0, 6, (int(generator.integers(0, 9)), 4)) * 10.0
            size = generator.integers(1, 6, (len(corners), 2)) * 10.0
            boxes = np.concatenate((corners[:, :2], corners[:, :2] + size), axis=1)
            detections = Detections(
                torch.tensor(boxes, dtype=torch.float32),
                torch.tensor(np.round(generator.random(len(boxes)), 1), dtype=torch.float32),
                torch.tensor(generator.integers(0, 3, len(boxes))),
            )
            number = int(generator.integers(0, 6))
            xywh = generator.integers(0, 6, (number, 4)) * 10.0 + [0, 0, 10, 10]
            annotated = GroundTruth(
                f"image {image_id}",
                (100, 100),
                xywh,
                generator.integers(0, 3, number),
                generator.random(number) < 0.2,
                xywh[:, 2] * xywh[:, 3] * 0.8,
            )
            for evaluator in evaluators:
                evaluator.update(detections, annotated)
        first, second = (evaluator.compute() for evaluator in evaluators)
        assert first == second


# --- Refusals ------------------------------------------------------------------------------------


def test_broken_input_names_the_image() -> None:
    evaluator = DetectionEvaluator(("a",))
    with pytest.raises(
        DataError, match=r"image 'x': a detection \(number 0\) has a non-finite score: \[nan\]"
    ):
        evaluator.update(found(((0, 0, 9, 9), math.nan, 0)), truth(image_id="x"))
    with pytest.raises(DataError, match=r"image 5: a detection .* has a non-finite box"):
        evaluator.update(found(((0, 0, math.inf, 9), 0.5, 0)), truth(image_id=5))
    with pytest.raises(DataError, match="image 5: a detection has label 1; allowed are 0 to 0"):
        evaluator.update(found(((0, 0, 9, 9), 0.5, 1)), truth(image_id=5))
    with pytest.raises(DataError, match=r"image 6 has no annotated boxes"):
        evaluator.update(found(), GroundTruth(6, (9, 9)))
    evaluator.update(found(), truth(image_id=7))
    with pytest.raises(DataError, match="image 7 is evaluated twice"):
        evaluator.update(found(), truth(image_id=7))
    with pytest.raises(
        DataError, match="box evaluator 'other' is unknown; known: hotcoco, pycocotools"
    ):
        evaluator.backend = "other"


def test_task_builds_it_and_it_says_what_it_does() -> None:
    evaluator = get_task("detection").build_evaluator(("a",))
    assert isinstance(evaluator, DetectionEvaluator)
    assert evaluator.protocol.count(".") > 0
    assert "hotcoco" in evaluator.protocol
    assert "100 detections" in evaluator.protocol
    evaluator.backend = "pycocotools"
    assert "computed with pycocotools" in evaluator.protocol
