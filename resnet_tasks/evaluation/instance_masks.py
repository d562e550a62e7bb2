"""COCO's twelve numbers for instance masks; no mask is kept once its picture is matched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np
from hotcoco import primitives
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco_masks import run_lengths
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco_tables import (
    Tables,
    category_records,
    reference_tables,
    tables_of,
)
from resnet_tasks.evaluation.detection import (
    Block,
    CocoEvaluator,
    annotated_objects,
    found_objects,
)
from resnet_tasks.evaluation.matches import (
    SMALLEST_IOU,
    Matches,
    Objects,
    Pairs,
    match,
    pairs_of_kept,
)
from resnet_tasks.metrics import Truth, as_array

_OTHER_IDS = 1 << 40
"""First id of pictures whose own is no whole number; they come after all others."""


class InstanceMaskEvaluator(CocoEvaluator):
    """Average precision and recall of instance masks, by COCO's rules.

    Each picture is matched as it comes. With hotcoco only scores, areas and matches stay in memory,
    whatever the resolution; pycocotools must keep the run lengths until the end.

    Args:
        classes: Names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); the numbers are the same.
        max_detections: As for boxes.
    """

    iou_type = "segm"
    kind = "mask"
    is_streamed = True

    def __init__(
        self,
        classes: Sequence[str],
        *,
        backend: str = "hotcoco",
        max_detections: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        super().__init__(classes, backend=backend, max_detections=max_detections)
        parameters = hotcoco.Params("segm")
        parameters.max_dets = list(max_detections)
        self._stream = hotcoco.StreamingEval(
            category_records(self.classes), "segm", params=parameters
        )
        self._pairs: list[Pairs] = []
        self._annotations: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        self._sizes: list[tuple[int, tuple[int, int]]] = []
        self._number = 0

    def update(self, prediction: Any, truth: Truth) -> None:
        """Takes one picture.

        Args:
            prediction: With `masks`, `labels` and `scores`, as `update_masks` takes them.
            truth: As in `update_masks`.

        Raises:
            DataError: As in `update_masks`.
        """
        self.update_masks(prediction.masks, prediction.labels, prediction.scores, truth)

    def update_masks(
        self,
        masks: Sequence[Any] | NDArray[Any],
        labels: Any,
        scores: Any,
        truth: Truth,
        *,
        boxes: NDArray[np.float64] | None = None,
    ) -> None:
        """Takes one picture.

        Args:
            masks: Of the detections, at the original size: `(N, height, width)` flags, or COCO
                segmentations (polygons or run lengths).
            labels: `(N,)` indices into `classes`.
            scores: `(N,)`; the order decides between equal ones.
            truth: Of the same picture, boxes and `segmentations` annotated.
            boxes: `(N, 4)` xywh. Where a results file gives boxes beside its masks, pycocotools
                takes a detection for small or large by its box; without them by its mask.

        Raises:
            DataError: If the picture was taken before, its masks are not annotated, or a mask,
                score or label cannot be evaluated.
        """
        annotated, truth_boxes = annotated_objects(truth)
        wanted = _truth_masks(truth)
        given = [_encoded(each, truth) for each in masks]
        areas = np.asarray([coco_mask.area(each) for each in given], np.float64)
        if boxes is not None:
            areas = boxes[:, 2] * boxes[:, 3]
        found = found_objects(as_array(labels), as_array(scores).astype(np.float64), areas)
        found_boxes = np.zeros((len(given), 4)) if boxes is None else boxes
        self._add(Block((truth.image_id,), annotated, truth_boxes, found, found_boxes))
        crowd = annotated.crowd.tolist()
        iou = np.asarray(primitives.mask_iou(given, wanted, crowd)).reshape(len(given), len(wanted))
        rows, columns = np.nonzero(iou >= SMALLEST_IOU)
        self._pairs.append(Pairs(rows, columns, iou[rows, columns]))
        self._hand_over(truth, (annotated, wanted), (found, given), boxes)

    def _hand_over(
        self,
        truth: Truth,
        annotated: tuple[Objects, list[Any]],
        found: tuple[Objects, list[Any]],
        boxes: NDArray[np.float64] | None,
    ) -> None:
        """Gives the picture's masks to the backend."""
        is_number = isinstance(truth.image_id, int) and 0 <= truth.image_id < _OTHER_IDS
        number = int(truth.image_id) if is_number else _OTHER_IDS + len(self._sizes)
        expected = _records(*annotated, number, self._number + 1)
        results = _records(*found, number, self._number + 1)
        self._number += max(len(expected), len(results))
        if boxes is not None:
            for record, box in zip(results, boxes.tolist(), strict=True):
                record["bbox"] = box
        self._sizes.append((number, truth.size))
        if self.backend == "hotcoco":
            images = [{"id": number, "height": truth.size[0], "width": truth.size[1]}]
            self._stream.update(images, expected, results)
        else:
            self._annotations[0].extend(expected)
            self._annotations[1].extend(results)

    def _tables(self) -> Tables:
        if not self._blocks or not self.classes:
            return Tables.empty(len(self.classes), len(self.max_detections))
        return self._join().kept("tables", self._made_tables)

    def _made_tables(self) -> Tables:
        if self.backend == "hotcoco":
            return tables_of(copy.copy(self._stream).finalize())
        images = [
            {"id": number, "height": size[0], "width": size[1]} for number, size in self._sizes
        ]
        truth, found = self._annotations
        limits = self.max_detections
        return reference_tables(images, self.classes, truth, found, limits, "segm")

    def _all_pairs(self) -> Pairs:
        starts = np.cumsum(
            [(0, 0), *((len(b.found.scores), len(b.truth.scores)) for b in self._blocks)], axis=0
        )
        none = np.zeros(0, np.int64)
        parts = list(zip(self._pairs, starts.tolist(), strict=False))
        return Pairs(
            np.concatenate([none, *(each.found + start[0] for each, start in parts)]),
            np.concatenate([none, *(each.truth + start[1] for each, start in parts)]),
            np.concatenate([np.zeros(0), *(each.iou for each, _ in parts)]),
        )

    def _matches(self) -> Matches:
        joined = self._join()

        def made() -> Matches:
            pairs, (truth, found) = self._all_pairs(), joined.objects
            same = found.labels[pairs.found] == truth.labels[pairs.truth]
            return match(truth, found, pairs.where(same), limit=self.max_detections[-1])

        return joined.kept("matches", made)

    def _pairs_of_any_class(self, rows: NDArray[np.int64]) -> Pairs:
        kept = np.zeros(len(self._join().found.scores), np.bool_)
        kept[rows] = True
        return pairs_of_kept(self._all_pairs(), kept)

    def _error_types(self) -> tuple[dict[str, float], list[str]]:
        return {}, ["Error types (TIDE) are not counted for masks: they are not kept."]


def _truth_masks(truth: Truth) -> list[Any]:
    given = truth.segmentations
    if given is None or len(given) != len(truth.labels if truth.labels is not None else ()):
        raise DataError(
            f"image {truth.image_id!r} has no annotated masks and cannot be evaluated; leave it out"
        )
    for number, each in enumerate(given):
        if each is None:
            raise DataError(
                f"image {truth.image_id!r}: an annotation (number {number}) has no mask; evaluate "
                "boxes, or give every annotation a segmentation"
            )
    return [_encoded(each, truth) for each in given]


def _encoded(mask: Any, truth: Truth) -> Any:
    """Run lengths of one mask."""
    if isinstance(mask, list | tuple | dict):
        try:
            return run_lengths(mask, *truth.size)
        except DataError as error:
            raise DataError(f"image {truth.image_id!r}: {error}") from None
    flags = as_array(mask)
    if flags.shape != tuple(truth.size):
        raise DataError(
            f"image {truth.image_id!r}: a mask has size {flags.shape} (height, width), its picture "
            f"{tuple(truth.size)}; give masks at the original size"
        )
    return coco_mask.encode(np.asfortranarray(flags.astype(np.bool_).astype(np.uint8)))


def _records(
    objects: Objects, masks: list[Any], image_id: int, first_id: int
) -> list[dict[str, Any]]:
    rows = zip(
        masks,
        objects.labels.tolist(),
        objects.areas.tolist(),
        objects.crowd.tolist(),
        objects.scores.tolist(),
        strict=True,
    )
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": label + 1,
            "segmentation": mask,
            "area": area,
            "iscrowd": int(is_crowd),
            "score": score,
        }
        for number, (mask, label, area, is_crowd, score) in enumerate(rows, start=first_id)
    ]
