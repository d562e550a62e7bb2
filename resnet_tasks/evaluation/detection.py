"""COCO's twelve numbers for boxes, equal to pycocotools' to the last digit.

The matching is done by hotcoco (compiled) or pycocotools (the reference); which pictures, boxes and
ids they see, and the summary of their tables, is the same code for both. So the numbers are those
of evaluating a results file with `pycocotools` on the annotation file itself.

Shape glossary of the tables: `T` overlap thresholds 0.5:0.05:0.95, `R` recall levels 0:0.01:1, `K`
classes, `S` size classes (all, small, medium, large), `M` limits of detections per picture.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hotcoco
import numpy as np
from numpy.typing import NDArray
from pycocotools import coco as reference_coco
from pycocotools import cocoeval as reference_eval

from resnet_tasks.data.coco import boxes_to_xywh
from resnet_tasks.errors import DataError
from resnet_tasks.metrics import Metric, Truth, as_array
from resnet_tasks.registry import EVALUATORS

if TYPE_CHECKING:
    from resnet_tasks.structures import Detections

Tables = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Precision `(T, R, K, S, M)` and recall `(T, K, S, M)`; -1 where nothing can be found."""

SIZES = {"": 0, "small": 1, "medium": 2, "large": 3}
"""Area below 32², to 96², above, in pixels² of the file's `area` (COCO)."""


@dataclass(frozen=True)
class _Objects:
    """Truth or predictions of one picture, or of all of them.

    Attributes:
        boxes: `(N, 4)` float64 xywh, original pixels.
        labels: `(N,)` int64, indices into the classes.
        values: `(N, V)` float64; of the truth area and crowd flag, of predictions the score.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class _Problem:
    """All pictures in the form that the backends take; ids count from 1.

    The reference takes an object with id 0 for unmatched, hence not from 0.
    """

    num_images: int
    classes: tuple[str, ...]
    truth: _Objects
    truth_images: NDArray[np.int64]
    found: _Objects
    found_images: NDArray[np.int64]

    @property
    def images(self) -> list[dict[str, Any]]:
        return [{"id": i + 1, "width": 1, "height": 1} for i in range(self.num_images)]

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{"id": i + 1, "name": name} for i, name in enumerate(self.classes)]


class DetectionEvaluator:
    """Average precision and recall of boxes, by COCO's rules.

    Args:
        classes: Names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); the numbers are the same.
        max_detections: Rising limits of detections per picture and class for the recalls; the last
            one holds for everything else.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        backend: str = "hotcoco",
        max_detections: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        self.classes = tuple(classes)
        self.max_detections = max_detections
        self.backend = backend
        self._pictures: dict[int | str, tuple[_Objects, _Objects]] = {}

    @property
    def backend(self) -> str:
        """Who does the matching; may be set until the numbers are computed.

        Raises:
            DataError: If it is unknown.
        """
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        if name not in _BACKENDS:
            raise DataError(
                f"evaluator of boxes {name!r} is unknown; known: {', '.join(_BACKENDS)}"
            )
        self._backend = name
        self.protocol = (
            "COCO box evaluation (equal to pycocotools COCOeval, iouType bbox), computed with "
            f"{name}: AP over IoU 0.50:0.05:0.95 and 101 recall levels, at most "
            f"{self.max_detections[-1]} detections per picture and class, size classes by the "
            "annotations' area, crowd regions neither found nor missed, mean over classes that "
            "occur in the truth."
        )

    def update(self, prediction: Detections, truth: Truth) -> None:
        """Takes one picture.

        Args:
            prediction: In the frame of the original picture; the order decides between equal
                scores.
            truth: Of the same picture, boxes annotated.

        Raises:
            DataError: If the picture was taken before, its boxes are not annotated, or a score,
                box or label is no number that can be evaluated.
        """
        self.update_xywh(
            boxes_to_xywh(prediction.boxes),
            as_array(prediction.labels).astype(np.int64),
            as_array(prediction.scores).astype(np.float64),
            truth,
        )

    def update_xywh(
        self,
        boxes: NDArray[np.float64],
        labels: NDArray[np.int64],
        scores: NDArray[np.float64],
        truth: Truth,
    ) -> None:
        """Takes one picture's detections as COCO results write them.

        Args:
            boxes: `(N, 4)` xywh, pixels of the original picture.
            labels: `(N,)`, indices into `classes`.
            scores: `(N,)`; the order decides between equal ones.
            truth: As in `update`.

        Raises:
            DataError: As in `update`.
        """
        image_id = truth.image_id
        if image_id in self._pictures:
            raise DataError(f"image {image_id!r} is evaluated twice; give each picture once")
        if truth.boxes_xywh is None or truth.labels is None:
            raise DataError(
                f"image {image_id!r} has no annotated boxes and cannot be evaluated; leave it out"
            )
        annotated = np.asarray(truth.boxes_xywh, np.float64).reshape(-1, 4)
        areas = annotated[:, 2] * annotated[:, 3] if truth.areas is None else truth.areas
        crowd = np.zeros(len(annotated), np.bool_) if truth.crowd is None else truth.crowd
        values = np.stack((areas, crowd.astype(np.float64)), axis=1)
        expected = _Objects(annotated, np.asarray(truth.labels, np.int64), values)
        found = _Objects(boxes, labels, scores.reshape(-1, 1))
        num_classes = len(self.classes)
        _check(expected, num_classes, image_id, ("an annotation", "area"))
        _check(found, num_classes, image_id, ("a detection", "score"))
        self._pictures[image_id] = (expected, found)

    def compute(self) -> dict[str, Metric]:
        """All numbers over the pictures seen so far.

        Returns:
            `AP, AP50, AP75, AP_small, AP_medium, AP_large`, `AR_1, AR_10, AR_100` (by
            `max_detections`) and `AR_small, AR_medium, AR_large`, each with its value per class;
            None where the truth holds no such object.
        """
        if not self._pictures or not self.classes:
            precision = np.full((10, 101, len(self.classes), 4, len(self.max_detections)), -1.0)
            return self._summary(precision, precision[:, 0])
        tables = _BACKENDS[self.backend](self._problem(), self.max_detections)
        return self._summary(*tables)

    def _problem(self) -> _Problem:
        # COCO resolves equal scores by the order of image ids: keep the order of the file's own.
        ids = sorted(self._pictures, key=lambda image_id: (isinstance(image_id, str), image_id))
        truth = [self._pictures[image_id][0] for image_id in ids]
        found = [self._pictures[image_id][1] for image_id in ids]
        return _Problem(
            len(ids),
            self.classes,
            *(_joined(truth)),
            *(_joined(found)),
        )

    def _summary(
        self, precision: NDArray[np.float64], recall: NDArray[np.float64]
    ) -> dict[str, Metric]:
        metrics = {
            "AP": self._metric(precision[..., 0, -1]),
            "AP50": self._metric(precision[:1, ..., 0, -1]),
            "AP75": self._metric(precision[5:6, ..., 0, -1]),
        }
        sized = [(name, index) for name, index in SIZES.items() if name]
        metrics |= {f"AP_{name}": self._metric(precision[..., i, -1]) for name, i in sized}
        for position, limit in enumerate(self.max_detections):
            metrics[f"AR_{limit}"] = self._metric(recall[..., 0, position])
        metrics |= {f"AR_{name}": self._metric(recall[..., i, -1]) for name, i in sized}
        return metrics

    def _metric(self, table: NDArray[np.float64]) -> Metric:
        """Means of a table whose last axis is classes."""
        per_class = {name: _mean(table[..., i]) for i, name in enumerate(self.classes)}
        return Metric(_mean(table), per_class)


def _mean(table: NDArray[np.float64]) -> float | None:
    defined = table[table > -1]
    return float(np.mean(defined)) if defined.size else None


def _check(
    objects: _Objects, num_classes: int, image_id: int | str, names: tuple[str, str]
) -> None:
    """Refuses what cannot be evaluated; `names` are those of an object and of its first value."""
    what, value = names
    for name, numbers in (("box", objects.boxes), (value, objects.values)):
        bad = ~np.isfinite(numbers).all(axis=1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"image {image_id!r}: {what} (number {first}) has a non-finite {name}: "
                f"{numbers[first].tolist()}; the model or its input is broken"
            )
    outside = (objects.labels < 0) | (objects.labels >= num_classes)
    if outside.any():
        raise DataError(
            f"image {image_id!r}: {what} has label {int(objects.labels[outside][0])}; allowed are "
            f"0 to {num_classes - 1}, indices into the evaluator's classes"
        )


def _joined(pictures: Sequence[_Objects]) -> tuple[_Objects, NDArray[np.int64]]:
    """All objects one after the other, and the 1-based number of the picture of each."""
    counts = [len(each.labels) for each in pictures]
    joined = _Objects(
        np.concatenate([each.boxes for each in pictures]),
        np.concatenate([each.labels for each in pictures]),
        np.concatenate([each.values for each in pictures]),
    )
    return joined, np.repeat(np.arange(1, len(pictures) + 1, dtype=np.int64), counts)


def _with_hotcoco(problem: _Problem, limits: tuple[int, ...]) -> Tables:
    truth = hotcoco.COCO.from_arrays(
        problem.images,
        problem.categories,
        problem.truth_images,
        problem.truth.labels + 1,
        problem.truth.boxes,
        area=problem.truth.values[:, 0],
        iscrowd=problem.truth.values[:, 1].astype(np.bool_),
    )
    if len(problem.found_images):
        rows = (problem.found_images, problem.found.boxes, problem.found.values)
        table = np.column_stack((*rows, problem.found.labels + 1))
        found = truth.load_res(np.ascontiguousarray(table, dtype=np.float64))
    else:
        found = hotcoco.COCO(_dataset(problem, []))
    run = hotcoco.COCOeval(truth, found, "bbox")
    return _tables(run, limits)


def _with_pycocotools(problem: _Problem, limits: tuple[int, ...]) -> Tables:
    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = reference_coco.COCO(), reference_coco.COCO()
        truth.dataset = _dataset(problem, _annotations(problem.truth, problem.truth_images))
        found.dataset = _dataset(problem, _annotations(problem.found, problem.found_images))
        truth.createIndex()
        found.createIndex()
        return _tables(reference_eval.COCOeval(truth, found, "bbox"), limits)


_BACKENDS: dict[str, Callable[[_Problem, tuple[int, ...]], Tables]] = {
    "hotcoco": _with_hotcoco,
    "pycocotools": _with_pycocotools,
}


def _tables(run: Any, limits: tuple[int, ...]) -> Tables:
    run.params.maxDets = list(limits)
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _dataset(problem: _Problem, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": problem.images,
        "categories": problem.categories,
        "annotations": annotations,
    }


def _annotations(objects: _Objects, images: NDArray[np.int64]) -> list[dict[str, Any]]:
    is_truth = objects.values.shape[1] == 2
    rows = zip(
        images.tolist(),
        objects.labels.tolist(),
        objects.boxes.tolist(),
        objects.values.tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label + 1,
            "bbox": box,
            "area": values[0] if is_truth else box[2] * box[3],
            "iscrowd": int(values[1]) if is_truth else 0,
            "score": 0.0 if is_truth else values[0],
        }
        for number, (image_id, label, box, values) in enumerate(rows, start=1)
    ]


@EVALUATORS.register("detection")
def detection_evaluator(classes: tuple[str, ...]) -> DetectionEvaluator:
    """The evaluator of detection heads."""
    return DetectionEvaluator(classes)
