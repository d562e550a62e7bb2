"""COCO's tables of precision and recall, by a compiled evaluator or by the reference.

The matching is done by hotcoco (compiled) or pycocotools (the reference); which images, objects
and ids they see is the same code for both.

Shape glossary of the tables: `T` overlap thresholds 0.5:0.05:0.95, `R` recall levels 0:0.01:1, `K`
classes, `S` size classes (all, small, medium, large), `M` limits of detections per image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import Objects


@dataclass(frozen=True)
class CocoTables:
    """What COCO's evaluation gives; -1 where nothing can be found.

    Attributes:
        precision: `(T, R, K, S, M)`.
        recall: `(T, K, S, M)`.
        scores: `(T, R, K, S, M)` of the detections that reach each recall.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def empty(cls, num_classes: int, num_limits: int) -> CocoTables:
        """Those of no image at all."""
        table = np.full((10, 101, num_classes, 4, num_limits), -1.0)
        return cls(table, table[:, 0], table)


@dataclass(frozen=True)
class BackendInputs:
    """All images in the form that the backends take; ids count from 1.

    The reference takes an object with id 0 for unmatched, hence not from 0.

    Attributes:
        number: Of images; equal scores are resolved in their order.
        classes: Names in label order.
        truth: Annotated objects.
        truth_boxes: `(G, 4)` xywh.
        detections: Detections.
        detection_boxes: `(D, 4)` xywh.
    """

    number: int
    classes: tuple[str, ...]
    truth: Objects
    truth_boxes: NDArray[np.float64]
    detections: Objects
    detection_boxes: NDArray[np.float64]

    @property
    def images(self) -> list[dict[str, Any]]:
        """Their COCO records."""
        return [{"id": i + 1, "width": 1, "height": 1} for i in range(self.number)]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes' COCO records."""
        return build_category_records(self.classes)


def build_category_records(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO records of classes, ids counting from 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(classes)]


def match_with_hotcoco(inputs: BackendInputs, limits: tuple[int, ...]) -> Any:
    """A hotcoco `COCOeval` over boxes, matched but not accumulated."""
    truth = hotcoco.COCO.from_arrays(
        inputs.images,
        inputs.categories,
        inputs.truth.images + 1,
        inputs.truth.labels + 1,
        inputs.truth_boxes,
        area=inputs.truth.areas,
        iscrowd=inputs.truth.crowd,
    )
    objects = inputs.detections
    if len(objects.images):
        rows = (objects.images + 1, inputs.detection_boxes, objects.scores, objects.labels + 1)
        detections = truth.load_res(np.ascontiguousarray(np.column_stack(rows), dtype=np.float64))
    else:
        detections = hotcoco.COCO(_build_dataset(inputs.images, inputs.categories, []))
    run = hotcoco.COCOeval(truth, detections, "bbox")
    run.params.maxDets = list(limits)
    run.evaluate()
    return run


def compute_hotcoco_tables(truth: Any, detections: Any, limits: tuple[int, ...]) -> CocoTables:
    """Hotcoco's tables of two of its data sets of boxes."""
    run = hotcoco.COCOeval(truth, detections, "bbox")
    run.params.maxDets = list(limits)
    run.evaluate()
    return accumulate_tables(run)


def _compute_tables_with_hotcoco(inputs: BackendInputs, limits: tuple[int, ...]) -> CocoTables:
    return accumulate_tables(match_with_hotcoco(inputs, limits))


def _compute_tables_with_pycocotools(inputs: BackendInputs, limits: tuple[int, ...]) -> CocoTables:
    truth = _build_annotations(inputs.truth, inputs.truth_boxes)
    detections = _build_annotations(inputs.detections, inputs.detection_boxes)
    return compute_pycocotools_tables(
        inputs.images, inputs.classes, truth, detections, limits, "bbox"
    )


BOX_BACKENDS: dict[str, Callable[[BackendInputs, tuple[int, ...]], CocoTables]] = {
    "hotcoco": _compute_tables_with_hotcoco,
    "pycocotools": _compute_tables_with_pycocotools,
}
"""Name -> who makes the tables of boxes; they give the same numbers."""


def compute_pycocotools_tables(
    images: list[dict[str, Any]],
    classes: Sequence[str],
    truth: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    limits: tuple[int, ...],
    iou_type: str,
) -> CocoTables:
    """Pycocotools' tables of annotations in COCO form."""
    categories = build_category_records(classes)
    with contextlib.redirect_stdout(io.StringIO()):
        # The reference is imported where it judges: it takes longer than the compiled one runs.
        coco_class = import_module("pycocotools.coco").COCO
        expected, results = coco_class(), coco_class()
        expected.dataset = _build_dataset(images, categories, truth)
        results.dataset = _build_dataset(images, categories, detections)
        expected.createIndex()
        results.createIndex()
        run = import_module("pycocotools.cocoeval").COCOeval(expected, results, iou_type)
        run.params.maxDets = list(limits)
        run.evaluate()
        return accumulate_tables(run)


def accumulate_tables(run: Any) -> CocoTables:
    """Tables of a `COCOeval` of either library that has matched its images."""
    run.accumulate()
    accumulated = run.eval
    return CocoTables(
        np.asarray(accumulated["precision"]),
        np.asarray(accumulated["recall"]),
        np.asarray(accumulated["scores"]),
    )


def _build_dataset(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> dict[str, Any]:
    return {"images": images, "categories": categories, "annotations": annotations}


def _build_annotations(objects: Objects, boxes: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows = zip(
        objects.images.tolist(),
        objects.labels.tolist(),
        boxes.tolist(),
        objects.areas.tolist(),
        objects.crowd.tolist(),
        objects.scores.tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": label + 1,
            "bbox": box,
            "area": area,
            "iscrowd": int(is_crowd),
            "score": score,
        }
        for number, (image, label, box, area, is_crowd, score) in enumerate(rows, start=1)
    ]
