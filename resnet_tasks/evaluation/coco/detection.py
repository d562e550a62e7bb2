"""COCO's twelve metrics for boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.evaluation.coco.backends import (
    BOX_BACKENDS,
    CocoTables,
    match_with_hotcoco,
)
from resnet_tasks.evaluation.coco.diagnostics import compute_error_types
from resnet_tasks.evaluation.coco.evaluator import CocoEvaluator
from resnet_tasks.evaluation.coco.image_blocks import ImageBlock, build_objects, build_truth_objects
from resnet_tasks.evaluation.coco.matching import Matches, Pairs, find_box_pairs, match_detections
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.detections import Detections


class DetectionEvaluator(CocoEvaluator):
    """Evaluator of average precision and recall of boxes, by COCO's rules.

    Args:
        classes: Class names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); both give the same numbers.
        max_detections: Limits of detections per image and class for the recalls, ascending; the
            last one applies to all other metrics.
    """

    iou_type = "bbox"
    kind = "box"

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Add one image.

        Args:
            prediction: Detections in pixels of the original image; equal scores keep this order.
            truth: Ground truth of the image, with annotated boxes.

        Raises:
            DataError: If the image was added before, its boxes are not annotated, a score or box is
                not finite, or a label is not an index into the classes.
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
        """Add the detections of one image in the format of COCO results.

        Args:
            boxes: `(N, 4)` xywh, pixels of the original image.
            labels: `(N,)`, indices into `classes`.
            scores: `(N,)`; equal scores keep this order.
            truth: Ground truth of the image, with annotated boxes.

        Raises:
            DataError: If the image was added before, its boxes are not annotated, a score or box is
                not finite, or a label is not an index into the classes.
        """
        truth_objects, truth_boxes = build_truth_objects(truth)
        areas = boxes[:, 2] * boxes[:, 3]
        detections = build_objects(labels, scores, areas)
        self._add_block(
            ImageBlock((truth.image_id,), truth_objects, truth_boxes, detections, boxes)
        )

    def update_block(self, block: ImageBlock) -> None:
        """Add many images at once.

        Raises:
            DataError: If an image was added before, a score or box is not finite, or a label is not
                an index into the classes.
        """
        self._add_block(block)

    def reuse_tables(self, tables: CocoTables) -> None:
        """Use tables that the backend has computed of exactly the images added so far."""
        self._join_blocks().get_or_compute(f"tables by {self.backend}", lambda: tables)

    def _compute_tables(self) -> CocoTables:
        if not self._blocks or not self.classes:
            return CocoTables.empty(len(self.classes), len(self.max_detections))
        joined = self._join_blocks()
        key = f"tables by {self.backend}"
        return joined.get_or_compute(
            key,
            lambda: BOX_BACKENDS[self.backend](self._build_backend_inputs(), self.max_detections),
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
            match_with_hotcoco(
                self._build_backend_inputs(), self.max_detections, is_for_error_types=True
            )
        )
