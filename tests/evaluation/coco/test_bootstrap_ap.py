"""One matching gives the numbers of any resampled data set, the evaluator's own included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator
from resnet_tasks.structures.evaluation import DetailedEvaluator, GroundTruth, ResamplableEvaluator

CLASSES = ("a", "b", "c")


def random_image(
    generator: np.random.Generator, image_id: int | str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], GroundTruth]:
    """Boxes on a coarse grid with coarse scores: many ties of overlap and score, some crowds."""
    number = int(generator.integers(0, 7))
    xywh = generator.integers(0, 6, (number, 4)) * 20.0 + [0, 0, 20, 20]
    labels = generator.integers(0, 3, number)
    near = np.repeat(np.arange(number), 3)
    boxes = xywh[near] + generator.integers(-1, 2, (len(near), 4)) * 4.0
    boxes = np.concatenate((boxes, generator.integers(1, 9, (4, 4)) * 10.0))
    guessed = np.concatenate((labels[near], generator.integers(0, 3, 4)))
    scores = np.round(generator.random(len(boxes)), 1)
    crowd = generator.random(number) < 0.2
    truth = GroundTruth(image_id, (200, 200), xywh, labels, crowd, xywh[:, 2] * xywh[:, 3] * 0.8)
    return boxes, guessed, scores, truth


def same(found: dict[str, NDArray[np.float64]], row: int, evaluator: DetectionEvaluator) -> None:
    """Row `row` of a resampling gives the evaluator's own numbers."""
    metrics = evaluator.compute()
    assert set(found) == {*metrics, *(f"{name}/{c}" for name in metrics for c in CLASSES)}
    for name, metric in metrics.items():
        expected = {name: metric.value} | {f"{name}/{c}": v for c, v in metric.per_class.items()}
        for key, value in expected.items():
            got = found[key][row]
            if value is None:
                assert np.isnan(got), key
            else:
                assert got == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("limits", [(1, 10, 100), (1, 3)])
def test_once_each_is_the_data_set_itself(limits: tuple[int, ...]) -> None:
    for seed in range(12):
        generator = np.random.default_rng(seed)
        evaluator = DetectionEvaluator(CLASSES, max_detections=limits)
        for image_id in generator.permutation(9).tolist():  # Not in the order of the ids.
            evaluator.update_xywh(*random_image(generator, image_id))
        assert isinstance(evaluator, ResamplableEvaluator)
        assert isinstance(evaluator, DetailedEvaluator)
        same(evaluator.resample(np.ones((1, 9), np.int64)), 0, evaluator)


def test_more_often_is_a_data_set_with_copies() -> None:
    for seed in range(12):
        generator = np.random.default_rng(100 + seed)
        images = [random_image(generator, image_id) for image_id in range(8)]
        for _, _, scores, _ in images:  # Equal between images, different within each.
            scores[:] = generator.permutation(len(scores)) / 40
        evaluator = DetectionEvaluator(CLASSES)
        for image in images:
            evaluator.update_xywh(*image)
        counts = generator.multinomial(8, np.full(8, 1 / 8), 3)
        found = evaluator.resample(counts)
        for row, each in enumerate(counts):
            copied = DetectionEvaluator(CLASSES, backend="pycocotools")
            for index, times in enumerate(each.tolist()):
                for copy in range(times):
                    boxes, labels, scores, truth = images[index]
                    as_new = GroundTruth(
                        100 * index + copy,
                        truth.size,
                        truth.boxes_xywh,
                        truth.labels,
                        truth.crowd,
                        truth.areas,
                    )
                    copied.update_xywh(boxes, labels, scores, as_new)
            same(found, row, copied)


def test_nothing_there_is_not_defined() -> None:
    evaluator = DetectionEvaluator(CLASSES)
    assert evaluator.resample(np.ones((2, 0), np.int64))["AP"].shape == (2,)
    none = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)
    evaluator.update_xywh(*none, GroundTruth(1, (9, 9), np.zeros((0, 4)), np.zeros(0, np.int64)))
    assert np.isnan(evaluator.resample(np.ones((1, 1), np.int64))["AP"]).all()
    box = np.array([[1.0, 1, 5, 5]])
    evaluator.update_xywh(*none, GroundTruth(2, (9, 9), box, np.zeros(1, np.int64)))
    found = evaluator.resample(np.array([[1, 1], [3, 0]]))
    assert found["AP"][0] == 0.0
    assert np.isnan(found["AP"][1])
    assert found["AR_100/a"][0] == 0.0


def test_real_boxes_and_masks(shared_data: Path) -> None:
    """Boxes and masks of COCO, moved by some pixels: matching is the evaluators' own."""
    coco = read_coco(shared_data / "coco_tiny/annotations/instances_val2017.json")
    names = coco.categories.names
    generator = np.random.default_rng(0)
    boxes, masks = DetectionEvaluator(names), InstanceMaskEvaluator(names)
    for record in coco.images[:40]:
        truth = build_truth(coco, record, record.id, range(len(names)))
        assert truth.boxes_xywh is not None
        assert truth.labels is not None
        scores = np.round(generator.random(len(truth.labels)), 2)
        moved = truth.boxes_xywh * generator.uniform(0.8, 1.2, truth.boxes_xywh.shape)
        boxes.update_xywh(moved, truth.labels, scores, truth)
        masks.update_masks(truth.segmentations or (), truth.labels[::-1], scores, truth)
    for evaluator in (boxes, masks):
        found = evaluator.resample(np.ones((1, 40), np.int64))
        for name, metric in evaluator.compute().items():
            assert found[name][0] == pytest.approx(metric.value, abs=1e-12)
