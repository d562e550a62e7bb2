"""Box and mask metrics of instances: equal to pycocotools; images and objects without masks."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import BOX_BACKENDS
from resnet_tasks.evaluation.coco.instance_segmentation import InstanceSegmentationEvaluator
from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import encode_bitmap, encode_rectangle

NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
SIZE = (40, 50)


def instances(*rows: tuple[float, tuple[float, float, float, float]]) -> InstanceSegmentation:
    """Instances of class 0 whose masks fill their boxes."""
    return InstanceSegmentation(
        np.asarray([box for _, box in rows], np.float32).reshape(-1, 4),
        np.asarray([score for score, _ in rows], np.float32),
        np.zeros(len(rows), np.int64),
        tuple(encode_rectangle(box, SIZE) for _, box in rows),
    )


def truth(image_id: int, *polygons: list[list[float]] | None, masks: bool = True) -> GroundTruth:
    """Objects in the box 0, 0, 20, 20."""
    boxes = np.tile([0.0, 0.0, 20.0, 20.0], (len(polygons), 1))
    labels = np.zeros(len(polygons), np.int64)
    return GroundTruth(image_id, SIZE, boxes, labels, segmentations=polygons if masks else None)


def square(side: float) -> list[list[float]]:
    return [[0.0, 0.0, side, 0.0, side, side, 0.0, side]]


def shift_instances(expected: GroundTruth, rng: np.random.Generator) -> InstanceSegmentation:
    """Two shifted copies of every object, some with another class, with tied scores."""
    assert expected.labels is not None
    masks = [
        np.roll(decode_mask(mask, *expected.size), rng.integers(-5, 6, 2), (0, 1))
        for mask in expected.segmentations or ()
        for _ in range(2)
    ]
    boxes = np.repeat(np.asarray(expected.boxes_xywh), 2, axis=0)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, :2] += rng.normal(0, 3, (len(boxes), 2))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.repeat(expected.labels, 2)
    labels[rng.random(len(labels)) < 0.1] = 0
    scores = np.round(rng.random(len(masks)), 1).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    unsorted = InstanceSegmentation(
        boxes.astype(np.float32),
        scores,
        labels,
        tuple(encode_bitmap(mask, expected.size) for mask in masks),
    )
    return unsorted.select(order)


def evaluate_with_pycocotools(truth_file: Path, results: Path, iou_type: str) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO(str(truth_file))
        run = COCOeval(expected, expected.loadRes(str(results)), iou_type)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]


@pytest.mark.parametrize("backend", BOX_BACKENDS)
def test_equals_pycocotools_on_the_results_file_of_real_objects(
    shared_data: Path, tmp_path: Path, backend: str
) -> None:
    """Crowds included; the file evaluation reads the same numbers from the same entries."""
    path = shared_data / "coco_tiny/annotations/instances_val2017.json"
    coco, rng = read_coco(path), np.random.default_rng(0)
    names, ids = coco.categories.names, coco.categories.ids
    evaluator = InstanceSegmentationEvaluator(names, backend=backend)
    results: list[dict[str, Any]] = []
    for record in coco.images:
        expected = build_truth(coco, record, record.id, range(len(names)))
        prediction = shift_instances(expected, rng)
        evaluator.update(prediction, expected)
        results += prediction.to_results(record.id, ids)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    metrics = evaluator.compute()
    assert list(metrics) == [f"{part}_{name}" for part in ("mask", "box") for name in NAMES]
    for part, iou_type in (("mask", "segm"), ("box", "bbox")):
        stats = evaluate_with_pycocotools(path, file, iou_type)
        values = [metrics[f"{part}_{name}"].value for name in NAMES]
        assert values == pytest.approx(stats, abs=1e-12)
        assert 0.1 < stats[0] < 0.9
        read = evaluate_results_file(path, file, task=part, backend=backend)
        assert {f"{part}_{name}": metric for name, metric in read.metrics.items()} == {
            name: metric for name, metric in metrics.items() if name.startswith(part)
        }
        details = read.make_evaluator().details()  # type: ignore[attr-defined]
        if part == "mask":
            assert details == evaluator.details()
            assert details["error_types"]["Loc"] > 0
    resampled = evaluator.resample(np.ones((1, len(coco.images)), np.int64))
    for name, metric in metrics.items():
        assert resampled[name][0] == pytest.approx(metric.value, abs=1e-12)


def test_equals_pycocotools_on_random_instances(tmp_path: Path) -> None:
    """Random rectangles and blobs, crowds, areas that differ from the masks, tied scores."""
    rng = np.random.default_rng(3)
    evaluator = InstanceSegmentationEvaluator(("a", "b", "c"))
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, 16):
        masks = []
        for _ in range(int(rng.integers(0, 7))):
            corner, side = rng.integers(0, 25, 2), rng.integers(3, 20, 2)
            bitmap = np.zeros(SIZE, np.bool_)
            rows, columns = (slice(a, a + b) for a, b in zip(corner, side, strict=True))
            bitmap[rows, columns] = rng.random(bitmap[rows, columns].shape) < 0.9
            masks.append((bitmap, [int(corner[1]), int(corner[0]), int(side[1]), int(side[0])]))
        labels = rng.integers(0, 3, len(masks))
        crowd, areas = rng.random(len(masks)) < 0.2, rng.uniform(10, 2000, len(masks))
        segmentations = tuple(encode_bitmap(bitmap, SIZE) for bitmap, _ in masks)
        boxes = np.asarray([box for _, box in masks], np.float64).reshape(-1, 4)
        expected = GroundTruth(
            image_id, SIZE, boxes, labels, crowd, areas, segmentations=segmentations
        )
        prediction = shift_instances(expected, rng)
        evaluator.update(prediction, expected)
        results += prediction.to_results(image_id, (1, 2, 3))
        annotations += [
            {
                "id": len(annotations) + number + 1,
                "image_id": image_id,
                "category_id": int(labels[number]) + 1,
                "bbox": boxes[number].tolist(),
                "area": float(areas[number]),
                "iscrowd": int(crowd[number]),
                "segmentation": {"size": list(SIZE), "counts": rle["counts"].decode()},
            }
            for number, rle in enumerate(segmentations)
        ]
    truth_file, file = tmp_path / "truth.json", tmp_path / "results.json"
    file.write_text(json.dumps(results))
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, 16)]
    categories = [{"id": i, "name": str(i)} for i in (1, 2, 3)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    truth_file.write_text(json.dumps(document))
    metrics = evaluator.compute()
    for part, iou_type in (("mask", "segm"), ("box", "bbox")):
        stats = evaluate_with_pycocotools(truth_file, file, iou_type)
        values = [metrics[f"{part}_{name}"].value for name in NAMES]
        # pycocotools writes -1 where the ground truth has no such object.
        assert [-1 if v is None else v for v in values] == pytest.approx(stats, abs=1e-12)


def test_boxes_and_masks_are_counted_apart() -> None:
    """The box overlaps by 1, the mask by 300/400 = 0.75: 6 of 10 thresholds."""
    evaluator = InstanceSegmentationEvaluator(("a",))
    prediction = replace(
        instances((0.9, (0, 0, 20, 20))), segmentations=(encode_rectangle([0, 0, 20, 15], SIZE),)
    )
    evaluator.update(prediction, truth(1, square(20)))
    metrics = evaluator.compute()
    assert metrics["box_AP"].value == pytest.approx(1.0)
    assert metrics["mask_AP"].value == pytest.approx(0.6)
    assert metrics["mask_AP"].per_class == {"a": pytest.approx(0.6)}
    assert "iouType segm" in evaluator.protocol
    assert "iouType bbox" in evaluator.protocol
    assert "pycocotools" in evaluator.rules
    assert "any backend" in evaluator.rules


def test_images_without_masks_count_in_the_box_metrics_only() -> None:
    evaluator = InstanceSegmentationEvaluator(("a",))
    evaluator.update(instances((0.9, (0, 0, 20, 20))), truth(1, square(20)))
    evaluator.update(instances((0.8, (20, 20, 40, 40))), truth(2, None, masks=False))
    evaluator.update(instances((0.7, (20, 20, 40, 40))), truth(3, None))
    evaluator.update(instances((0.6, (0, 0, 9, 9))), truth(4))
    metrics = evaluator.compute()
    # Two of three boxes are missed; the mask of image 4 is false, behind a hit.
    assert metrics["box_AP50"].value == pytest.approx(34 / 101)
    assert metrics["mask_AP50"].value == pytest.approx(1.0)
    details = evaluator.details()
    assert [row["image_id"] for row in details["images"]] == [1, 4]
    assert any(note.startswith("2 images of 4 have") for note in details["notes"])
    # Twice image 4, never image 1: no object with a mask is left.
    values = evaluator.resample(np.array([[1, 1, 1, 1], [0, 1, 0, 2], [1, 0, 0, 5]]))
    assert values["mask_AP50"] == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert values["box_AP50"] == pytest.approx([34 / 101, 0.0, 1.0])


def test_without_any_mask_there_are_box_metrics_only() -> None:
    evaluator = InstanceSegmentationEvaluator(("a",))
    assert evaluator.compute()["mask_AP"].value is None
    evaluator.update(instances((0.9, (0, 0, 20, 20))), truth(1, None, masks=False))
    metrics = evaluator.compute()
    assert (metrics["mask_AP"].value, metrics["box_AP"].value) == (None, pytest.approx(1.0))
    assert np.isnan(evaluator.resample(np.ones((2, 1), np.int64))["mask_AP/a"]).all()
    details = evaluator.details()
    assert "pr_curves" in details
    assert "Curves, confusion matrix and error types are those of the boxes." in details["notes"]


def test_an_object_without_a_mask_is_a_crowd_region() -> None:
    """It is not missed, a detection in its box is not wrong, one elsewhere is."""
    evaluator = InstanceSegmentationEvaluator(("a",))
    expected = truth(1, None, [[25.0, 25.0, 45.0, 25.0, 45.0, 38.0, 25.0, 38.0]])
    found = instances((0.9, (2, 2, 10, 10)), (0.8, (0, 0, 20, 20)), (0.7, (25, 25, 45, 38)))
    evaluator.update(found, expected)
    assert evaluator.compute()["mask_AP"].value == pytest.approx(1.0)
    assert any("1 annotated object has no mask" in note for note in evaluator.details()["notes"])
    other = InstanceSegmentationEvaluator(("a",))
    other.update(instances((0.9, (22, 2, 40, 20)), (0.7, (25, 25, 45, 38))), expected)
    assert other.compute()["mask_AP"].value == pytest.approx(0.5)


def test_refusals_name_the_image() -> None:
    evaluator = InstanceSegmentationEvaluator(("a",))
    with pytest.raises(DataError, match="image 7 has no annotated boxes"):
        evaluator.update(instances(), GroundTruth(7, SIZE))
    evaluator.update(instances(), truth(1))
    with pytest.raises(DataError, match="image 1 is evaluated twice"):
        evaluator.update(instances(), truth(1))
    with pytest.raises(DataError, match="too late"):
        evaluator.backend = "pycocotools"
