"""COCO's tables of precision and recall, by a compiled evaluator or by the reference.

The matching is done by hotcoco (compiled) or pycocotools (the reference); which pictures, objects
and ids they see is the same code for both.

Shape glossary of the tables: `T` overlap thresholds 0.5:0.05:0.95, `R` recall levels 0:0.01:1, `K`
classes, `S` size classes (all, small, medium, large), `M` limits of detections per picture.
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

from resnet_tasks.evaluation.matches import Objects


@dataclass(frozen=True)
class Tables:
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
    def empty(cls, num_classes: int, num_limits: int) -> Tables:
        """Those of no picture at all."""
        table = np.full((10, 101, num_classes, 4, num_limits), -1.0)
        return cls(table, table[:, 0], table)


@dataclass(frozen=True)
class Pictures:
    """All pictures in the form that the backends take; ids count from 1.

    The reference takes an object with id 0 for unmatched, hence not from 0.

    Attributes:
        number: Of pictures; equal scores are resolved in their order.
        classes: Names in label order.
        truth: Annotated objects.
        truth_boxes: `(G, 4)` xywh.
        found: Detections.
        found_boxes: `(D, 4)` xywh.
    """

    number: int
    classes: tuple[str, ...]
    truth: Objects
    truth_boxes: NDArray[np.float64]
    found: Objects
    found_boxes: NDArray[np.float64]

    @property
    def images(self) -> list[dict[str, Any]]:
        """Their COCO records."""
        return [{"id": i + 1, "width": 1, "height": 1} for i in range(self.number)]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """The classes' COCO records."""
        return category_records(self.classes)


def category_records(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO records of classes, ids counting from 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(classes)]


def compiled_run(pictures: Pictures, limits: tuple[int, ...]) -> Any:
    """A hotcoco `COCOeval` over boxes, matched but not accumulated."""
    truth = hotcoco.COCO.from_arrays(
        pictures.images,
        pictures.categories,
        pictures.truth.pictures + 1,
        pictures.truth.labels + 1,
        pictures.truth_boxes,
        area=pictures.truth.areas,
        iscrowd=pictures.truth.crowd,
    )
    objects = pictures.found
    if len(objects.pictures):
        rows = (objects.pictures + 1, pictures.found_boxes, objects.scores, objects.labels + 1)
        found = truth.load_res(np.ascontiguousarray(np.column_stack(rows), dtype=np.float64))
    else:
        found = hotcoco.COCO(_dataset(pictures.images, pictures.categories, []))
    run = hotcoco.COCOeval(truth, found, "bbox")
    run.params.maxDets = list(limits)
    run.evaluate()
    return run


def compiled_tables(truth: Any, found: Any, limits: tuple[int, ...]) -> Tables:
    """Hotcoco's tables of two of its data sets of boxes."""
    run = hotcoco.COCOeval(truth, found, "bbox")
    run.params.maxDets = list(limits)
    run.evaluate()
    return tables_of(run)


def _with_hotcoco(pictures: Pictures, limits: tuple[int, ...]) -> Tables:
    return tables_of(compiled_run(pictures, limits))


def _with_pycocotools(pictures: Pictures, limits: tuple[int, ...]) -> Tables:
    truth = _annotations(pictures.truth, pictures.truth_boxes)
    found = _annotations(pictures.found, pictures.found_boxes)
    return reference_tables(pictures.images, pictures.classes, truth, found, limits, "bbox")


BOX_BACKENDS: dict[str, Callable[[Pictures, tuple[int, ...]], Tables]] = {
    "hotcoco": _with_hotcoco,
    "pycocotools": _with_pycocotools,
}
"""Name -> who makes the tables of boxes; they give the same numbers."""


def reference_tables(
    images: list[dict[str, Any]],
    classes: Sequence[str],
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
    limits: tuple[int, ...],
    iou_type: str,
) -> Tables:
    """Pycocotools' tables of annotations in COCO form."""
    categories = category_records(classes)
    with contextlib.redirect_stdout(io.StringIO()):
        # The reference is imported where it judges: it takes longer than the compiled one runs.
        make = import_module("pycocotools.coco").COCO
        expected, results = make(), make()
        expected.dataset = _dataset(images, categories, truth)
        results.dataset = _dataset(images, categories, found)
        expected.createIndex()
        results.createIndex()
        run = import_module("pycocotools.cocoeval").COCOeval(expected, results, iou_type)
        run.params.maxDets = list(limits)
        run.evaluate()
        return tables_of(run)


def tables_of(run: Any) -> Tables:
    """Tables of a `COCOeval` of either library that has matched its pictures."""
    run.accumulate()
    found = run.eval
    return Tables(
        np.asarray(found["precision"]), np.asarray(found["recall"]), np.asarray(found["scores"])
    )


def _dataset(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> dict[str, Any]:
    return {"images": images, "categories": categories, "annotations": annotations}


def _annotations(objects: Objects, boxes: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows = zip(
        objects.pictures.tolist(),
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
            "image_id": picture + 1,
            "category_id": label + 1,
            "bbox": box,
            "area": area,
            "iscrowd": int(is_crowd),
            "score": score,
        }
        for number, (picture, label, box, area, is_crowd, score) in enumerate(rows, start=1)
    ]
