"""COCO's tables of precision and recall, from a compiled evaluator or the reference.

The matching is done by hotcoco (compiled) or pycocotools (the reference). Both receive the same
images, objects and ids from the same code.

Shape glossary of the tables: `T` overlap thresholds 0.5:0.05:0.95, `R` recall levels 0:0.01:1, `K`
classes, `S` size classes (all, small, medium, large), `M` limits of detections per image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import Objects


@dataclass(frozen=True)
class CocoTables:
    """Tables of a COCO evaluation; -1 where the ground truth has no object.

    Attributes:
        precision: `(T, R, K, S, M)`, 0..1.
        recall: `(T, K, S, M)`, 0..1.
        scores: `(T, R, K, S, M)`, scores of the detections that reach each recall.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]

    @classmethod
    def empty(cls, num_classes: int, num_limits: int) -> CocoTables:
        """Create the tables of an evaluation without images."""
        table = np.full((10, 101, num_classes, 4, num_limits), -1.0)
        return cls(table, table[:, 0], table)


@dataclass(frozen=True)
class BackendInputs:
    """All images in the form that the backends accept; ids start at 1.

    Ids do not start at 0, because pycocotools treats a match with object id 0 as unmatched.

    Attributes:
        number: Number of images; equal scores are ordered by image.
        classes: Class names in label order.
        truth: Annotated objects.
        truth_boxes: `(G, 4)` xywh, pixels of the original image.
        detections: Detections.
        detection_boxes: `(D, 4)` xywh, pixels of the original image.
        masks: Compressed masks of the annotated objects, and of the detections, which are compared
            instead of the boxes; None to compare the boxes.
    """

    number: int
    classes: tuple[str, ...]
    truth: Objects
    truth_boxes: NDArray[np.float64]
    detections: Objects
    detection_boxes: NDArray[np.float64]
    masks: tuple[Sequence[Any], Sequence[Any]] | None = None

    @property
    def iou_type(self) -> str:
        """What the libraries compare."""
        return "bbox" if self.masks is None else "segm"

    @property
    def images(self) -> list[dict[str, Any]]:
        """COCO records of the images."""
        return [{"id": i + 1, "width": 1, "height": 1} for i in range(self.number)]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """COCO records of the classes."""
        return build_category_records(self.classes)


def build_category_records(classes: Sequence[str]) -> list[dict[str, Any]]:
    """Build the COCO records of classes, with ids from 1."""
    return [{"id": i + 1, "name": name} for i, name in enumerate(classes)]


def match_with_hotcoco(
    inputs: BackendInputs, limits: tuple[int, ...], *, is_for_error_types: bool = False
) -> Any:
    """Return a hotcoco `COCOeval` that has matched but not accumulated.

    Args:
        inputs: Images in the form of the backends.
        limits: Limits of detections per image and class, ascending.
        is_for_error_types: Whether to match only what error types need: IoU 0.5, all sizes.
    """
    truth_masks, masks = (None, None) if inputs.masks is None else map(list, inputs.masks)
    truth = hotcoco.COCO.from_arrays(
        inputs.images,
        inputs.categories,
        inputs.truth.images + 1,
        inputs.truth.labels + 1,
        inputs.truth_boxes,
        area=inputs.truth.areas,
        iscrowd=inputs.truth.crowd,
        segmentation=truth_masks,
    )
    objects, boxes = inputs.detections, inputs.detection_boxes
    if len(objects.images):
        columns = (objects.images + 1, boxes, objects.scores, objects.labels + 1)
        rows = np.ascontiguousarray(np.column_stack(columns), dtype=np.float64)
        detections = truth.load_res(rows, segmentation=masks)
        if not np.array_equal(objects.areas, boxes[:, 2] * boxes[:, 3]):
            detections.update_anns(ids=np.arange(len(rows)) + 1, area=objects.areas)
    else:
        detections = hotcoco.COCO(_build_dataset(inputs.images, inputs.categories, []))
    run = hotcoco.COCOeval(truth, detections, inputs.iou_type)
    run.params.maxDets = list(limits)
    if is_for_error_types:
        _restrict_to_error_types(run)
    run.evaluate()
    return run


def _restrict_to_error_types(run: Any) -> None:
    """Restrict the matching to what error types need, which takes less than half of the time."""
    run.params.iouThrs = [0.5]
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]


def compute_hotcoco_tables(truth: Any, detections: Any, limits: tuple[int, ...]) -> CocoTables:
    """Compute hotcoco's tables of two hotcoco datasets of boxes."""
    run = hotcoco.COCOeval(truth, detections, "bbox")
    run.params.maxDets = list(limits)
    run.evaluate()
    return accumulate_tables(run)


def _compute_tables_with_hotcoco(inputs: BackendInputs, limits: tuple[int, ...]) -> CocoTables:
    return accumulate_tables(match_with_hotcoco(inputs, limits))


def _compute_tables_with_pycocotools(inputs: BackendInputs, limits: tuple[int, ...]) -> CocoTables:
    truth_masks, masks = inputs.masks or (None, None)
    truth = _build_annotations(inputs.truth, inputs.truth_boxes, truth_masks)
    detections = _build_annotations(inputs.detections, inputs.detection_boxes, masks)
    with contextlib.redirect_stdout(io.StringIO()):
        # Imported on demand: the import takes longer than a run of the compiled evaluator.
        coco_class = import_module("pycocotools.coco").COCO
        expected, results = coco_class(), coco_class()
        expected.dataset = _build_dataset(inputs.images, inputs.categories, truth)
        results.dataset = _build_dataset(inputs.images, inputs.categories, detections)
        expected.createIndex()
        results.createIndex()
        evaluation_class = import_module("pycocotools.cocoeval").COCOeval
        run = evaluation_class(expected, results, inputs.iou_type)
        run.params.maxDets = list(limits)
        run.evaluate()
        return accumulate_tables(run)


BOX_BACKENDS: dict[str, Callable[[BackendInputs, tuple[int, ...]], CocoTables]] = {
    "hotcoco": _compute_tables_with_hotcoco,
    "pycocotools": _compute_tables_with_pycocotools,
}
"""Backend name -> function that computes the tables; all give the same numbers."""


def accumulate_tables(run: Any) -> CocoTables:
    """Accumulate the tables of a `COCOeval` of either library that has matched its images."""
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


def _build_annotations(
    objects: Objects, boxes: NDArray[np.float64], masks: Sequence[Any] | None
) -> list[dict[str, Any]]:
    segmentations = repeat(None, len(boxes)) if masks is None else masks
    rows = zip(
        objects.images.tolist(),
        objects.labels.tolist(),
        boxes.tolist(),
        objects.areas.tolist(),
        objects.crowd.tolist(),
        objects.scores.tolist(),
        segmentations,
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
            **({} if mask is None else {"segmentation": mask}),
        }
        for number, (image, label, box, area, is_crowd, score, mask) in enumerate(rows, start=1)
    ]
