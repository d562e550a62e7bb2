"""Images with their annotated objects and detections in columns: building, checks and joining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.matching import Objects
from resnet_tasks.structures.evaluation import GroundTruth

Value = TypeVar("Value")


@dataclass(frozen=True)
class ImageBlock:
    """Images with their objects in columns.

    Attributes:
        image_ids: Ids of the images.
        truth: Annotated objects; `images` holds indices into `image_ids`.
        truth_boxes: `(G, 4)` float64 xywh, original pixels.
        detections: Detections; `images` holds indices into `image_ids`.
        detection_boxes: `(D, 4)` float64 xywh, original pixels.
    """

    image_ids: tuple[int | str, ...]
    truth: Objects
    truth_boxes: NDArray[np.float64]
    detections: Objects
    detection_boxes: NDArray[np.float64]


class JoinedBlocks:
    """All blocks joined into one, images sorted by id."""

    def __init__(self, blocks: Sequence[ImageBlock]) -> None:
        ids = [image_id for block in blocks for image_id in block.image_ids]
        # COCO orders equal scores by image id. The key sorts integers by value, before strings.
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
        """Return the cached value of `name`, computed by `make` on the first call."""
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
    """Build the columns and the `(N, 4)` xywh boxes of the annotated objects of one image.

    Raises:
        DataError: If the boxes are not annotated.
    """
    if truth.boxes_xywh is None or truth.labels is None:
        raise DataError(
            f"image {truth.image_id!r} has no annotated boxes and cannot be evaluated; skip it"
        )
    boxes = np.asarray(truth.boxes_xywh, np.float64).reshape(-1, 4)
    areas = boxes[:, 2] * boxes[:, 3] if truth.areas is None else truth.areas
    crowd = np.zeros(len(boxes), np.bool_) if truth.crowd is None else truth.crowd
    objects = build_objects(truth.labels, np.zeros(len(boxes)), np.asarray(areas, np.float64))
    return replace(objects, crowd=np.asarray(crowd, np.bool_)), boxes


def build_objects(labels: Any, scores: NDArray[np.float64], areas: NDArray[np.float64]) -> Objects:
    """Build the columns of the detections of one image."""
    number = len(scores)
    return Objects(
        np.zeros(number, np.int64),
        np.asarray(labels, np.int64),
        areas,
        scores,
        np.zeros(number, np.bool_),
    )


def group_rows_by_image(images: NDArray[np.int64], number: int) -> list[NDArray[np.intp]]:
    """Group the rows of objects by image; they keep their order.

    Args:
        images: `(N,)` index of the image of each object.
        number: Number of images, at least 1.
    """
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, number)))


def check_block(block: ImageBlock, num_classes: int) -> None:
    """Check that boxes, areas, scores and labels can be evaluated.

    Args:
        block: Images to check.
        num_classes: Number of the evaluator's classes.

    Raises:
        DataError: If a number is not finite, or a label is not an index into the classes.
    """
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
        _check_labels(block.image_ids, objects, subject, num_classes)


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
