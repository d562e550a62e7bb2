"""KITTI's average precision of 2-D boxes: easy, moderate, hard, and height bins.

The rules are those of the object development kit (Geiger et al., CVPR 2012) with 40 recall points
(Simonelli et al., ICCV 2019). One deviation: in the kit, objects can be matched to detections of
any class that are too low to count; here only to those of their own class. The metrics are computed
from steps. A step is the change in an image's true and false positives when the threshold passes
the score of a detection. Steps are computed once and then weighted for each resampled dataset.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from resnet_tasks.errors import DataError, RecipeError, format_allowed
from resnet_tasks.evaluation.numerics.box_overlap import (
    ImageBoxes,
    build_image_boxes,
    compute_overlaps,
    xywh_to_xyxy,
)
from resnet_tasks.evaluation.numerics.weighted_means import (
    Counts,
    Floats,
    average_defined,
    build_metrics,
    flatten_class_values,
)
from resnet_tasks.evaluation.protocols.kitti_average_precision import (
    RECALL_POINTS,
    compute_average_precision,
)
from resnet_tasks.evaluation.protocols.kitti_matching import KittiImage, Tally, add_to_tally
from resnet_tasks.evaluation.protocols.registry import EvaluatorOptions
from resnet_tasks.number_formats import Count
from resnet_tasks.registry import EXTRA_EVALUATORS, suggest_nearest
from resnet_tasks.structures.evaluation import GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.detections import Detections

LEAST_IOU = {"car": 0.7, "pedestrian": 0.5, "cyclist": 0.5}  # development kit
OTHER_IOU = 0.5
NEIGHBORS = {"van": "car", "person_sitting": "pedestrian"}  # development kit
DONT_CARE = "dontcare"


@dataclass(frozen=True)
class _Level:
    """Criteria for objects that count; other objects of the class are neither hits nor misses.

    Attributes:
        name: Name of the level in the metric names.
        low: Minimum height of a box, pixels.
        high: Height above which boxes no longer count, exclusive, pixels.
        occluded: Maximum degree of occlusion.
        truncated: Maximum fraction outside the image.
    """

    name: str
    low: float
    high: float
    occluded: float
    truncated: float


LEVELS = (  # development kit: MIN_HEIGHT, MAX_OCCLUSION, MAX_TRUNCATION
    _Level("easy", 40, math.inf, 0, 0.15),
    _Level("moderate", 25, math.inf, 1, 0.30),
    _Level("hard", 25, math.inf, 2, 0.50),
)


class KittiOptions(EvaluatorOptions):
    """Overlaps, neighboring classes and height bins.

    Attributes:
        iou: Class name -> overlap that a hit must exceed, 0..1; default: 0.7 for car, 0.5 for
            others.
        neighbors: Class name -> class for which its objects are neither hits nor misses.
        heights: Edges of the height bins, ascending, pixels; AP is also computed for the boxes
            between two edges and above the last one, with the occlusion and truncation of `hard`.
    """

    iou: Mapping[str, Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=dict)
    neighbors: Mapping[str, str] = Field(default_factory=lambda: dict(NEIGHBORS))
    heights: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @field_validator("heights")
    @classmethod
    def _edges_rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(value)):
            raise ValueError("edges must increase")
        return value


class KittiEvaluator:
    """Evaluator of the AP of boxes by KITTI's rules.

    Args:
        classes: Class names in label order, case-insensitive. Classes that are a neighbor of
            another one, and `DontCare`, are not evaluated.
        options: Overlaps, neighboring classes and height bins.

    Raises:
        RecipeError: If the options name a class that the head does not have.
    """

    Options: ClassVar[type[EvaluatorOptions]] = KittiOptions
    task: ClassVar[str] = "detection"

    def __init__(self, classes: Sequence[str], options: KittiOptions | None = None) -> None:
        self.classes = tuple(classes)
        self.options = options or KittiOptions()
        class_by_key = {name.lower(): name for name in self.classes}
        iou_by_key = {name.lower(): value for name, value in self.options.iou.items()}
        for name in iou_by_key:
            if name not in class_by_key:
                hint = suggest_nearest(name, self.classes)
                raise RecipeError(
                    f"options of evaluator 'kitti': iou names {name!r}, but the classes are "
                    f"{format_allowed(self.classes)}{hint}"
                )
        self._neighbors = {
            one.lower(): other.lower() for one, other in self.options.neighbors.items()
        }
        self.evaluated_classes = tuple(
            name
            for key, name in class_by_key.items()
            if key != DONT_CARE and self._neighbors.get(key) not in class_by_key
        )
        self._iou = {
            name: iou_by_key.get(name.lower(), LEAST_IOU.get(name.lower(), OTHER_IOU))
            for name in self.evaluated_classes
        }
        edges = (*self.options.heights, math.inf)
        bins = tuple(
            _Level(f"height_{low:g}_{'up' if math.isinf(high) else f'{high:g}'}", low, high, 2, 0.5)
            for low, high in pairwise(edges)
        )
        self.levels = LEVELS + bins
        self._tallies = {
            (name, level): Tally() for name in self.evaluated_classes for level in self.levels
        }
        self._ids: dict[int | str, None] = {}
        self._objects = self._undescribed = 0
        overlap = ", ".join(f"{name} {value:g}" for name, value in self._iou.items())
        neighbor_text = ", ".join(
            f"{one} next to {other}"
            for one, other in self._neighbors.items()
            if other in {name.lower() for name in self.evaluated_classes}
        )
        heights = " (height bins: as hard, other heights ignored)" if bins else ""
        self.rules = (
            "KITTI 2-D object AP over 40 recall points (Simonelli et al. 2019), IoU above "
            f"{overlap}; easy / moderate / hard count boxes of at least 40 / 25 / 25 px height, "
            "occluded up to 0 / 1 / 2 and truncated up to 0.15 / 0.30 / 0.50 (objects without "
            "these fields count as fully visible); other objects of the class, objects of "
            f"neighboring classes ({neighbor_text or 'none'}), detections of lower height, and "
            "detections inside DontCare or crowd regions are ignored; mean over the classes that "
            "occur in the ground truth."
        )
        self.protocol = self.rules + heights

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._ids)

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If the image was added before, its boxes are not annotated, a score or box is
                not finite, or a label is not an index into the classes.
        """
        if truth.image_id in self._ids:
            raise DataError(
                f"image {truth.image_id!r} is evaluated twice; add each image only once"
            )
        boxes = build_image_boxes(prediction, truth, len(self.classes))
        image = len(self._ids)
        self._ids[truth.image_id] = None
        occluded, truncated = _get_visibility(truth, len(boxes.truth_labels))
        self._objects += len(boxes.truth_labels)
        self._undescribed += int((np.isnan(occluded) & np.isnan(truncated)).sum())
        # Comparisons with NaN are false, so objects with unknown visibility count as visible.
        hidden = {
            level: (occluded > level.occluded) | (truncated > level.truncated)
            for level in self.levels
        }
        for name in self.evaluated_classes:
            build_scene = self._build_scene_function(name, boxes, truth)
            for level in self.levels:
                add_to_tally(self._tallies[name, level], build_scene(level, hidden[level]), image)

    def _build_scene_function(self, name: str, boxes: ImageBoxes, truth: GroundTruth) -> Any:
        """Return a function from (level, hidden objects) to the scene of one class."""
        label, min_iou = self.classes.index(name), self._iou[name]
        is_class = boxes.detection_labels == label
        detection_boxes, scores = boxes.detection_boxes[is_class], boxes.scores[is_class]
        truth_names = np.asarray(
            [self.classes[truth_label].lower() for truth_label in boxes.truth_labels], np.str_
        )
        other_names = np.asarray(
            [other_name.lower() for other_name in truth.other_categories], np.str_
        )
        other_boxes = xywh_to_xyxy(
            np.zeros((0, 4)) if truth.other_boxes_xywh is None else truth.other_boxes_xywh
        )
        neighbor_names = [one for one, other in self._neighbors.items() if other == name.lower()]
        regions = boxes.crowd | (truth_names == DONT_CARE)
        is_same_class = (truth_names == name.lower()) & ~regions
        is_neighbor = np.isin(truth_names, neighbor_names) & ~regions
        is_candidate = is_same_class | is_neighbor
        other_neighbors = np.isin(other_names, neighbor_names)
        order = _find_file_order(truth, is_candidate, other_neighbors)
        objects = np.concatenate((boxes.truth_boxes[is_candidate], other_boxes[other_neighbors]))[
            order
        ]
        care = np.concatenate((boxes.truth_boxes[regions], other_boxes[other_names == DONT_CARE]))
        overlap, _ = compute_overlaps(detection_boxes, objects)
        hits = np.where(overlap > min_iou, overlap, 0.0)
        is_excused = np.asarray(
            (compute_overlaps(detection_boxes, care)[1] > min_iou).any(axis=1), np.bool_
        )
        heights = np.abs(detection_boxes[:, 3] - detection_boxes[:, 1])
        tall = objects[:, 3] - objects[:, 1]
        no_others = np.zeros(int(other_neighbors.sum()), np.bool_)
        is_own = np.concatenate((is_same_class[is_candidate], no_others))[order]

        def build_scene(level: _Level, hidden: NDArray[np.bool_]) -> KittiImage:
            unseen = np.concatenate((hidden[is_candidate], no_others))[order]
            counts = is_own & ~unseen & (tall >= level.low) & (tall < level.high)
            is_small = (heights < level.low) | (heights >= level.high)
            return KittiImage(scores, np.asarray(is_small, np.bool_), is_excused, hits, counts)

        return build_scene

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            `KITTI_AP_easy`, `KITTI_AP_moderate`, `KITTI_AP_hard` and `KITTI_AP_height_LOW_HIGH` for
            the bins, each with its value per class; None if no object counts.
        """
        return build_metrics(self.resample(np.ones((1, len(self._ids)), np.int64)))

    def resample(self, counts: Counts) -> dict[str, Floats]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`."""
        values: dict[str, Floats] = {}
        for level in self.levels:
            columns = [
                compute_average_precision(self._tallies[name, level], counts)
                for name in self.evaluated_classes
            ]
            per_class = np.stack(columns, axis=1) if columns else np.zeros((len(counts), 0))
            overall = average_defined(per_class, axis=1)
            values |= flatten_class_values(
                f"KITTI_AP_{level.name}", overall, per_class, self.evaluated_classes
            )
        return values

    def details(self) -> dict[str, Any]:
        """Return notes on incomplete ground truth; see `DetailedEvaluator.details`."""
        notes = []
        if self._undescribed:
            notes.append(
                f"KITTI: {Count(self._undescribed):object has} neither `occluded` nor `truncated` "
                f"(of {self._objects}); such objects count as fully visible, so easy, moderate and "
                "hard differ only in height for them."
            )
        for (name, level), tally in self._tallies.items():
            number = sum(tally.objects)
            if 0 < number <= RECALL_POINTS:
                notes.append(
                    f"KITTI: only {Count(number):object} of {name} "
                    f"{'counts' if number == 1 else 'count'} as {level.name}; by KITTI's rules, AP "
                    f"cannot exceed {number - 1}/{RECALL_POINTS} with so few objects."
                )
        return {"notes": notes} if notes else {}


def _find_file_order(
    truth: GroundTruth, is_used: NDArray[np.bool_], is_other_used: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return the order of the file for the used boxes, followed by the used other boxes.

    In the development kit, the objects choose their detections one after the other, so the result
    depends on their order.
    """
    other_positions = truth.other_positions
    if other_positions is None:
        other_positions = np.full(len(is_other_used), len(is_used))
    # A box at index i follows the other boxes at position i.
    keys = np.concatenate((np.flatnonzero(is_used) + 0.5, other_positions[is_other_used]))
    return np.argsort(keys, kind="stable")


def _get_visibility(truth: GroundTruth, count: int) -> tuple[Floats, Floats]:
    unknown = np.full(count, np.nan)
    return (
        unknown if truth.occluded is None else truth.occluded,
        unknown if truth.truncated is None else truth.truncated,
    )


EXTRA_EVALUATORS.register("kitti")(KittiEvaluator)
