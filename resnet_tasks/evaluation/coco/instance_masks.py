"""COCO's twelve metrics for instance masks.

Masks are matched image by image and then dropped, unless they are kept until the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import hotcoco
import numpy as np
from hotcoco import primitives
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.masks import encode_rle
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import (
    BOX_BACKENDS,
    BackendInputs,
    CocoTables,
    accumulate_tables,
    build_category_records,
    match_with_hotcoco,
)
from resnet_tasks.evaluation.coco.diagnostics import compute_error_types
from resnet_tasks.evaluation.coco.evaluator import CocoEvaluator
from resnet_tasks.evaluation.coco.image_blocks import (
    ImageBlock,
    build_objects,
    build_truth_objects,
    group_rows_by_image,
)
from resnet_tasks.evaluation.coco.matching import (
    SMALLEST_IOU,
    Matches,
    Objects,
    Pairs,
    concatenate_pairs,
    match_detections,
    select_pairs,
)
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.run_lengths import compute_areas

_OTHER_IDS = 1 << 40
"""First id for images whose id is not a nonnegative integer; these images sort after all others."""


class InstanceMaskEvaluator(CocoEvaluator):
    """Evaluator of average precision and recall of instance masks, by COCO's rules.

    Each image is matched when it is added: only scores, areas and matches stay in memory,
    independent of the resolution. If the RLEs are kept, all images are matched at once when metrics
    are requested, which is faster. pycocotools needs the RLEs.

    Args:
        classes: Class names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); both give the same numbers.
        max_detections: Limits of detections per image and class for the recalls, ascending; the
            last one applies to all other metrics.
        keeps_masks: Whether to keep the RLEs (some hundred bytes per mask), which the error types
            of `details` need.
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
        keeps_masks: bool = False,
    ) -> None:
        super().__init__(classes, backend=backend, max_detections=max_detections)
        self._keeps_masks = keeps_masks
        parameters = hotcoco.Params("segm")
        parameters.max_dets = list(max_detections)
        self._stream = hotcoco.StreamingEval(
            build_category_records(self.classes), "segm", params=parameters
        )
        self._pairs: list[Pairs] = []
        self._masks: list[tuple[Sequence[Any], Sequence[Any]]] = []
        self._number = 0

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Add one image.

        Args:
            prediction: Object with `masks`, `labels` and `scores` as in `update_masks`.
            truth: Ground truth of the image, with annotated boxes and `segmentations`.

        Raises:
            DataError: If the image was added before, its masks are not annotated, or a mask, score
                or label is invalid.
        """
        self.update_masks(prediction.masks, prediction.labels, prediction.scores, truth)

    def update_masks(
        self,
        masks: Sequence[Any] | NDArray[Any],
        labels: Any,
        scores: Any,
        truth: GroundTruth,
        *,
        boxes: NDArray[np.float64] | None = None,
    ) -> None:
        """Add the masks of one image.

        Args:
            masks: Masks of the detections at the original size: `(N, height, width)` bool, or COCO
                segmentations (polygons or RLE).
            labels: `(N,)` indices into `classes`.
            scores: `(N,)`; equal scores keep this order.
            truth: Ground truth of the image, with annotated boxes and `segmentations`.
            boxes: `(N, 4)` xywh, original pixels. If a results file contains boxes in addition to
                masks, pycocotools determines the size class of a detection from its box, otherwise
                from its mask.

        Raises:
            DataError: If the image was added before, its masks are not annotated, or a mask, score
                or label is invalid.
        """
        truth_objects, truth_boxes = build_truth_objects(truth)
        truth_masks = encode_truth_masks(truth)
        encoded_masks = [_encode_mask(mask, truth) for mask in masks]
        areas = compute_areas(encoded_masks) if boxes is None else boxes[:, 2] * boxes[:, 3]
        detections = build_objects(as_array(labels), as_array(scores).astype(np.float64), areas)
        detection_boxes = np.zeros((len(encoded_masks), 4)) if boxes is None else boxes
        block = ImageBlock(
            (truth.image_id,), truth_objects, truth_boxes, detections, detection_boxes
        )
        if self._is_keeping:
            self.update_block(block, truth_masks, encoded_masks)
            return
        self._add_block(block)
        self._pairs.append(find_mask_pairs(encoded_masks, truth_masks, truth_objects.crowd))
        self._send_to_stream(
            truth, (truth_objects, truth_masks), (detections, encoded_masks), boxes
        )

    def update_block(
        self, block: ImageBlock, truth_masks: Sequence[Any], detection_masks: Sequence[Any]
    ) -> None:
        """Add many images at once to an evaluator that keeps the RLEs.

        Args:
            block: Images to add.
            truth_masks: Compressed RLE of every annotated object.
            detection_masks: Compressed RLE of every detection.

        Raises:
            DataError: If an image was added before, a number is not finite, or a label is not an
                index into the classes.
        """
        assert self._is_keeping, "masks of many images are matched at the end"
        self._add_block(block)
        self._masks.append((truth_masks, detection_masks))

    @property
    def _is_keeping(self) -> bool:
        """Whether the RLEs are kept until the end."""
        return self._keeps_masks or self.backend != "hotcoco"

    def _send_to_stream(
        self,
        truth: GroundTruth,
        annotated: tuple[Objects, list[Any]],
        detections: tuple[Objects, list[Any]],
        boxes: NDArray[np.float64] | None,
    ) -> None:
        """Let the compiled evaluator match an image."""
        is_number = isinstance(truth.image_id, int) and 0 <= truth.image_id < _OTHER_IDS
        number = int(truth.image_id) if is_number else _OTHER_IDS + len(self._blocks)
        expected = _build_records(*annotated, number, self._number + 1)
        results = _build_records(*detections, number, self._number + 1)
        self._number += max(len(expected), len(results))
        if boxes is not None:
            for record, box in zip(results, boxes.tolist(), strict=True):
                record["bbox"] = box
        images = [{"id": number, "height": truth.size[0], "width": truth.size[1]}]
        self._stream.update(images, expected, results)

    def _compute_tables(self) -> CocoTables:
        if not self._blocks or not self.classes:
            return CocoTables.empty(len(self.classes), len(self.max_detections))
        return self._join_blocks().get_or_compute("tables", self._accumulate_tables)

    def _accumulate_tables(self) -> CocoTables:
        if not self._is_keeping:
            # `finalize` consumes its stream; the original can still receive images.
            return accumulate_tables(copy.copy(self._stream).finalize())
        return BOX_BACKENDS[self.backend](self._build_backend_inputs(), self.max_detections)

    def _build_backend_inputs(self) -> BackendInputs:
        truth_masks, masks = (list(chain(*(pair[i] for pair in self._masks))) for i in (0, 1))
        return replace(super()._build_backend_inputs(), masks=(truth_masks, masks))

    def _join_pairs(self) -> Pairs:
        if self._is_keeping:
            for position in range(len(self._pairs), len(self._blocks)):
                self._pairs.append(
                    _find_block_pairs(self._blocks[position], *self._masks[position])
                )
        starts = np.cumsum(
            [(0, 0), *((len(b.detections.scores), len(b.truth.scores)) for b in self._blocks)],
            axis=0,
        )
        none = np.zeros(0, np.int64)
        parts = list(zip(self._pairs, starts.tolist(), strict=False))
        return Pairs(
            np.concatenate([none, *(pairs.detection_indices + start[0] for pairs, start in parts)]),
            np.concatenate([none, *(pairs.truth_indices + start[1] for pairs, start in parts)]),
            np.concatenate([np.zeros(0), *(pairs.iou for pairs, _ in parts)]),
        )

    def _compute_matches(self) -> Matches:
        joined = self._join_blocks()

        def compute_matches() -> Matches:
            pairs, (truth, detections) = self._join_pairs(), joined.objects
            same = detections.labels[pairs.detection_indices] == truth.labels[pairs.truth_indices]
            return match_detections(
                truth, detections, pairs.select(same), limit=self.max_detections[-1]
            )

        return joined.get_or_compute("matches", compute_matches)

    def _find_class_agnostic_pairs(self, rows: NDArray[np.int64]) -> Pairs:
        is_kept = np.zeros(len(self._join_blocks().detections.scores), np.bool_)
        is_kept[rows] = True
        return select_pairs(self._join_pairs(), is_kept)

    def _compute_error_types(self) -> tuple[dict[str, float], list[str]]:
        if not self._blocks or not self.classes:
            return {}, []
        if not self._is_keeping:
            return {}, ["Error types (TIDE) are not computed, because the masks are not stored."]
        return compute_error_types(
            match_with_hotcoco(
                self._build_backend_inputs(), self.max_detections, is_for_error_types=True
            )
        )


def _find_block_pairs(
    block: ImageBlock, truth_masks: Sequence[Any], detection_masks: Sequence[Any]
) -> Pairs:
    """Find all pairs of masks of the same image that overlap by at least one half."""
    number = len(block.image_ids)
    pairs = []
    for rows, truth_rows in zip(
        group_rows_by_image(block.detections.images, number),
        group_rows_by_image(block.truth.images, number),
        strict=True,
    ):
        found = find_mask_pairs(
            [detection_masks[row] for row in rows],
            [truth_masks[row] for row in truth_rows],
            block.truth.crowd[truth_rows],
        )
        pairs.append(
            Pairs(rows[found.detection_indices], truth_rows[found.truth_indices], found.iou)
        )
    return concatenate_pairs(pairs)


def find_mask_pairs(
    detection_masks: Sequence[Any], truth_masks: Sequence[Any], crowd: NDArray[np.bool_]
) -> Pairs:
    """Find all pairs of masks of one image that overlap by at least one half.

    Args:
        detection_masks: Compressed RLE of every detection.
        truth_masks: Compressed RLE of every annotated object.
        crowd: `(G,)` bool, objects whose overlap is relative to the area of the detection.
    """
    iou = np.asarray(primitives.mask_iou(detection_masks, truth_masks, crowd.tolist()))
    iou = iou.reshape(len(detection_masks), len(truth_masks))
    rows, columns = np.nonzero(iou >= SMALLEST_IOU)
    return Pairs(rows, columns, iou[rows, columns])


def encode_truth_masks(truth: GroundTruth) -> list[Any]:
    """Return the compressed RLE of every annotated object of an image.

    Raises:
        DataError: If the masks of the image are not annotated, an object has no mask, or a mask is
            invalid.
    """
    segmentations = truth.segmentations
    if segmentations is None or len(segmentations) != len(
        truth.labels if truth.labels is not None else ()
    ):
        raise DataError(
            f"image {truth.image_id!r} has no annotated masks and cannot be evaluated; skip it"
        )
    for number, segmentation in enumerate(segmentations):
        if segmentation is None:
            raise DataError(
                f"image {truth.image_id!r}: an annotation (number {number}) has no mask; evaluate "
                "boxes, or give every annotation a segmentation"
            )
    return [_encode_mask(segmentation, truth) for segmentation in segmentations]


def _encode_mask(mask: Any, truth: GroundTruth) -> Any:
    """Encode one mask as RLE."""
    if isinstance(mask, list | tuple | dict):
        try:
            return encode_rle(mask, *truth.size)
        except DataError as error:
            raise DataError(f"image {truth.image_id!r}: {error}") from None
    flags = as_array(mask)
    if flags.shape != tuple(truth.size):
        raise DataError(
            f"image {truth.image_id!r}: a mask has size {flags.shape} (height, width), but the "
            f"image has {tuple(truth.size)}; give masks at the original size"
        )
    return coco_mask.encode(np.asfortranarray(flags.astype(np.bool_).astype(np.uint8)))


def _build_records(
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
