"""COCO's twelve numbers for boxes and masks, equal to pycocotools' to the last digit.

The numbers are those of evaluating a results file with `pycocotools` on the annotation file itself.
Tables come from a compiled evaluator (or the reference); resampled data sets, confusions and
images' quality from one matching of our own, which gives the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import (
    BOX_BACKENDS,
    BackendInputs,
    CocoTables,
    match_with_hotcoco,
)
from resnet_tasks.evaluation.coco.bootstrap_ap import resample_tables
from resnet_tasks.evaluation.coco.diagnostics import (
    build_confusion_matrix,
    compute_error_types,
    compute_pr_curves,
    score_images,
)
from resnet_tasks.evaluation.coco.matching import (
    Matches,
    Objects,
    Pairs,
    find_box_pairs,
    match_detections,
)
from resnet_tasks.evaluation.coco.metrics import (
    build_coco_metrics,
    compute_class_metrics,
    describe_protocol,
)
from resnet_tasks.registry import EVALUATORS
from resnet_tasks.structures.evaluation import GroundTruth, Metric, as_array

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions import Detections

Value = TypeVar("Value")


@dataclass(frozen=True)
class ImageBlock:
    """Some images with their objects in columns.

    Attributes:
        image_ids: Of the images.
        truth: Annotated objects; `images` index `image_ids`.
        truth_boxes: `(G, 4)` float64 xywh, original pixels.
        detections: Detections.
        detection_boxes: `(D, 4)` float64 xywh, original pixels.
    """

    image_ids: tuple[int | str, ...]
    truth: Objects
    truth_boxes: NDArray[np.float64]
    detections: Objects
    detection_boxes: NDArray[np.float64]


class CocoEvaluator(ABC):
    """What boxes and masks share: images in columns, the twelve numbers, resampling, details.

    Args:
        classes: Names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); the numbers are the same.
        max_detections: Rising limits of detections per image and class for the recalls; the last
            one holds for everything else.
    """

    iou_type = ""
    kind = ""
    is_streamed = False

    def __init__(
        self,
        classes: Sequence[str],
        *,
        backend: str = "hotcoco",
        max_detections: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        self.classes = tuple(classes)
        self.max_detections = max_detections
        self._blocks: list[ImageBlock] = []
        self._image_indices: dict[int | str, int] = {}
        self._joined: _JoinedBlocks | None = None
        self._backend = ""
        self.backend = backend

    @property
    def backend(self) -> str:
        """Who makes the tables; for masks it must be set before the first image.

        Raises:
            DataError: If it is unknown, or comes too late.
        """
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        if name not in BOX_BACKENDS:
            raise DataError(
                f"{self.kind} evaluator {name!r} is unknown; known: {', '.join(BOX_BACKENDS)}"
            )
        if self._blocks and self.is_streamed and name != self._backend:
            raise DataError(
                f"{self.kind} evaluator {name!r} comes too late: {len(self._image_indices)} "
                "images were "
                f"matched by {self._backend}; choose it before the first image"
            )
        self._backend = name
        self.protocol = describe_protocol(self.kind, self.iou_type, name, self.max_detections)
        # Of both backends alike: they give the same numbers.
        self.rules = describe_protocol(self.kind, self.iou_type, "any backend", self.max_detections)

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images seen so far; the `P` columns of `resample`, in this order."""
        return tuple(self._image_indices)

    def compute(self) -> dict[str, Metric]:
        """All numbers over the images seen so far.

        Returns:
            `AP, AP50, AP75, AP_small, AP_medium, AP_large`, `AR_1, AR_10, AR_100` (by
            `max_detections`) and `AR_small, AR_medium, AR_large`, each with its value per class;
            None where the truth holds no such object.
        """
        return build_coco_metrics(self._compute_tables(), self.classes, self.max_detections)

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """The numbers of data sets in which images occur more or less often.

        Args:
            counts: `(R, P)` how often each image of `image_ids` occurs; whole numbers.

        Returns:
            `metric` and `metric/class` -> `(R,)` values, NaN where not defined.
        """
        joined = self._join_blocks()
        precision, recall = resample_tables(
            self._compute_matches(),
            np.asarray(counts)[:, joined.order],
            len(self.classes),
            self.max_detections,
        )
        values: dict[str, NDArray[np.float64]] = {}
        for name, class_values in compute_class_metrics(
            precision, recall, self.max_detections
        ).items():
            is_defined = ~np.isnan(class_values)
            total = np.where(is_defined, class_values, 0.0).sum(axis=1)
            number = is_defined.sum(axis=1)
            values[name] = np.where(number > 0, total / np.maximum(number, 1), np.nan)
            values |= {
                f"{name}/{label}": class_values[:, i] for i, label in enumerate(self.classes)
            }
        return values

    def details(self) -> dict[str, Any]:
        """Curves and tables of the images seen so far, as `Detailed` describes them."""
        matches, joined = self._compute_matches(), self._join_blocks()
        labels, matrix = build_confusion_matrix(
            matches, self._find_class_agnostic_pairs, self.classes
        )
        ids = tuple(self._image_indices)
        errors, notes = self._compute_error_types()
        return {
            "pr_curves": compute_pr_curves(self._compute_tables(), self.classes),
            "confusion": {"labels": labels, "matrix": matrix},
            **({"error_types": errors} if errors else {}),
            "images": score_images(matches, [ids[i] for i in joined.order]),
            "notes": notes,
        }

    def _add_block(self, block: ImageBlock) -> None:
        """Takes images.

        Raises:
            DataError: If one was taken before, or a number or label is none that can be evaluated.
        """
        for image_id in block.image_ids:
            if image_id in self._image_indices:
                raise DataError(f"image {image_id!r} is evaluated twice; give each image once")
        parts = (
            (block.truth, block.truth_boxes, "an annotation", ("area", block.truth.areas)),
            (
                block.detections,
                block.detection_boxes,
                "a detection",
                ("score", block.detections.scores),
            ),
        )
        for objects, boxes, subject, (quantity, numbers) in parts:
            _check_finite(block.image_ids, objects, subject, "box", boxes)
            _check_finite(block.image_ids, objects, subject, quantity, numbers[:, None])
            _check_labels(block.image_ids, objects, subject, len(self.classes))
        for image_id in block.image_ids:
            self._image_indices[image_id] = len(self._image_indices)
        self._blocks.append(block)
        self._joined = None

    def _join_blocks(self) -> _JoinedBlocks:
        if self._joined is None:
            self._joined = _JoinedBlocks(self._blocks)
        return self._joined

    @abstractmethod
    def _compute_tables(self) -> CocoTables: ...

    @abstractmethod
    def _compute_matches(self) -> Matches: ...

    @abstractmethod
    def _find_class_agnostic_pairs(self, rows: NDArray[np.int64]) -> Pairs: ...

    @abstractmethod
    def _compute_error_types(self) -> tuple[dict[str, float], list[str]]: ...


class DetectionEvaluator(CocoEvaluator):
    """Average precision and recall of boxes, by COCO's rules.

    Args:
        classes: Names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); the numbers are the same.
        max_detections: Rising limits of detections per image and class for the recalls; the last
            one holds for everything else.
    """

    iou_type = "bbox"
    kind = "box"

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Takes one image.

        Args:
            prediction: In the frame of the original image; the order decides between equal
                scores.
            truth: Of the same image, boxes annotated.

        Raises:
            DataError: If the image was taken before, its boxes are not annotated, or a score,
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
        truth: GroundTruth,
    ) -> None:
        """Takes one image's detections as COCO results write them.

        Args:
            boxes: `(N, 4)` xywh, pixels of the original image.
            labels: `(N,)`, indices into `classes`.
            scores: `(N,)`; the order decides between equal ones.
            truth: As in `update`.

        Raises:
            DataError: As in `update`.
        """
        truth_objects, truth_boxes = build_truth_objects(truth)
        areas = boxes[:, 2] * boxes[:, 3]
        detections = build_objects(labels, scores, areas)
        self._add_block(
            ImageBlock((truth.image_id,), truth_objects, truth_boxes, detections, boxes)
        )

    def update_block(self, block: ImageBlock) -> None:
        """Takes many images at once.

        Raises:
            DataError: As in `update`.
        """
        self._add_block(block)

    def _compute_tables(self) -> CocoTables:
        if not self._blocks or not self.classes:
            return CocoTables.empty(len(self.classes), len(self.max_detections))
        joined = self._join_blocks()
        key = f"tables by {self.backend}"
        return joined.get_or_compute(
            key,
            lambda: BOX_BACKENDS[self.backend](self._build_backend_inputs(), self.max_detections),
        )

    def _build_backend_inputs(self) -> BackendInputs:
        joined = self._join_blocks()
        return BackendInputs(
            len(joined.order),
            self.classes,
            joined.truth,
            joined.truth_boxes,
            joined.detections,
            joined.detection_boxes,
        )

    def _compute_matches(self) -> Matches:
        joined = self._join_blocks()

        def compute_matches() -> Matches:
            keys = [
                objects.images * len(self.classes) + objects.labels for objects in joined.objects
            ]
            pairs = find_box_pairs(
                joined.detection_boxes,
                joined.truth_boxes,
                joined.truth.crowd,
                keys=(keys[1], keys[0]),
            )
            return match_detections(
                joined.truth, joined.detections, pairs, limit=self.max_detections[-1]
            )

        return joined.get_or_compute("matches", compute_matches)

    def _find_class_agnostic_pairs(self, rows: NDArray[np.int64]) -> Pairs:
        joined = self._join_blocks()
        return find_box_pairs(
            joined.detection_boxes[rows],
            joined.truth_boxes,
            joined.truth.crowd,
            keys=(joined.detections.images[rows], joined.truth.images),
        )

    def _compute_error_types(self) -> tuple[dict[str, float], list[str]]:
        if not self._blocks or not self.classes:
            return {}, []
        return compute_error_types(
            match_with_hotcoco(self._build_backend_inputs(), self.max_detections)
        )


class _JoinedBlocks:
    """All blocks as one, images in the order of their ids."""

    def __init__(self, blocks: Sequence[ImageBlock]) -> None:
        ids = [image_id for block in blocks for image_id in block.image_ids]
        # COCO resolves equal scores by the order of image ids: keep the order of the file's own.
        keys = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
        self.order = np.asarray(keys, np.int64)
        rank = np.empty(len(ids), np.int64)
        rank[self.order] = np.arange(len(ids))
        starts = np.cumsum([0, *(len(block.image_ids) for block in blocks)])
        pieces = list(zip(blocks, starts.tolist(), strict=False))
        self.truth = _concatenate_objects([(block.truth, start) for block, start in pieces], rank)
        self.detections = _concatenate_objects(
            [(block.detections, start) for block, start in pieces], rank
        )
        none = np.zeros((0, 4))
        self.truth_boxes = np.concatenate([none, *(block.truth_boxes for block in blocks)])
        self.detection_boxes = np.concatenate([none, *(block.detection_boxes for block in blocks)])
        self._cache: dict[str, Any] = {}

    @property
    def objects(self) -> tuple[Objects, Objects]:
        """Annotated objects and detections."""
        return self.truth, self.detections

    def get_or_compute(self, name: str, make: Callable[[], Value]) -> Value:
        """What `make` gives, made once."""
        if name not in self._cache:
            self._cache[name] = make()
        cached: Value = self._cache[name]
        return cached


def _concatenate_objects(parts: Sequence[tuple[Objects, int]], rank: NDArray[np.int64]) -> Objects:
    if not parts:
        no_integers, no_floats = np.zeros(0, np.int64), np.zeros(0)
        return Objects(no_integers, no_integers, no_floats, no_floats, np.zeros(0, np.bool_))
    images = np.concatenate([objects.images + start for objects, start in parts])
    return Objects(
        rank[images],
        np.concatenate([objects.labels for objects, _ in parts]),
        np.concatenate([objects.areas for objects, _ in parts]),
        np.concatenate([objects.scores for objects, _ in parts]),
        np.concatenate([objects.crowd for objects, _ in parts]),
    )


def build_truth_objects(truth: GroundTruth) -> tuple[Objects, NDArray[np.float64]]:
    """The objects of one image and their `(N, 4)` xywh boxes.

    Raises:
        DataError: If its boxes are not annotated.
    """
    if truth.boxes_xywh is None or truth.labels is None:
        raise DataError(
            f"image {truth.image_id!r} has no annotated boxes and cannot be evaluated; leave it out"
        )
    boxes = np.asarray(truth.boxes_xywh, np.float64).reshape(-1, 4)
    areas = boxes[:, 2] * boxes[:, 3] if truth.areas is None else truth.areas
    crowd = np.zeros(len(boxes), np.bool_) if truth.crowd is None else truth.crowd
    objects = build_objects(truth.labels, np.zeros(len(boxes)), np.asarray(areas, np.float64))
    return replace(objects, crowd=np.asarray(crowd, np.bool_)), boxes


def build_objects(labels: Any, scores: NDArray[np.float64], areas: NDArray[np.float64]) -> Objects:
    """Detections of one image."""
    number = len(scores)
    return Objects(
        np.zeros(number, np.int64),
        np.asarray(labels, np.int64),
        areas,
        scores,
        np.zeros(number, np.bool_),
    )


def _check_finite(
    image_ids: Sequence[int | str],
    objects: Objects,
    subject: str,
    name: str,
    numbers: NDArray[np.float64],
) -> None:
    bad = ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        image = objects.images[first]
        number = first - int(np.flatnonzero(objects.images == image)[0])
        raise DataError(
            f"image {image_ids[image]!r}: {subject} (number {number}) has a non-finite {name}: "
            f"{numbers[first].tolist()}; the model or its input is broken"
        )


def _check_labels(
    image_ids: Sequence[int | str], objects: Objects, subject: str, num_classes: int
) -> None:
    outside = (objects.labels < 0) | (objects.labels >= num_classes)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise DataError(
            f"image {image_ids[objects.images[first]]!r}: {subject} has label "
            f"{int(objects.labels[first])}; allowed are 0 to {num_classes - 1}, indices into the "
            "evaluator's classes"
        )


@EVALUATORS.register("detection")
def build_detection_evaluator(classes: tuple[str, ...]) -> DetectionEvaluator:
    """The evaluator of detection heads."""
    return DetectionEvaluator(classes)
