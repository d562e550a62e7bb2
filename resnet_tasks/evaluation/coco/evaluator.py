"""COCO's twelve metrics for boxes and masks, equal to pycocotools' to the last digit.

The metrics equal those of `pycocotools` for the same results file and annotation file. The tables
come from a compiled evaluator or from the reference. Resampled datasets, confusion matrices and
image quality come from a separate matching in this package, which gives the same numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import BOX_BACKENDS, BackendInputs, CocoTables
from resnet_tasks.evaluation.coco.bootstrap_ap import CocoResampler
from resnet_tasks.evaluation.coco.class_agnostic import ClassAgnosticMatch, match_without_classes
from resnet_tasks.evaluation.coco.diagnostics import (
    build_confusion_matrix,
    compute_confidence_curves,
    compute_pr_curves,
    score_images,
)
from resnet_tasks.evaluation.coco.image_blocks import ImageBlock, JoinedBlocks, check_block
from resnet_tasks.evaluation.coco.matching import Matches, Pairs
from resnet_tasks.evaluation.coco.metrics import (
    build_coco_metrics,
    describe_protocol,
)
from resnet_tasks.evaluation.numerics.weighted_means import average_defined, flatten_class_values
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import Metric


class CocoEvaluator(ABC):
    """Base class of the box and mask evaluators: images in columns, metrics, resampling, details.

    Args:
        classes: Class names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); both give the same numbers.
        max_detections: Limits of detections per image and class for the recalls, ascending; the
            last one applies to all other metrics.
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
        self._joined: JoinedBlocks | None = None
        self._backend = ""
        self.backend = backend

    @property
    def backend(self) -> str:
        """Backend of the tables; for masks it must be set before the first image.

        Raises:
            DataError: If the backend is unknown, or set after the first image.
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
                f"{self.kind} evaluator {name!r} is set too late: "
                f"{Count(len(self._image_indices)):image was} already matched by {self._backend}; "
                "set the evaluator before adding the first image"
            )
        self._backend = name
        self.protocol = describe_protocol(self.kind, self.iou_type, name, self.max_detections)
        # Independent of the backend, because both give the same numbers.
        self.rules = describe_protocol(self.kind, self.iou_type, "any backend", self.max_detections)

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far, in the order of the `P` columns of `resample`."""
        return tuple(self._image_indices)

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            `AP, AP50, AP75, AP_small, AP_medium, AP_large`, `AR_1, AR_10, AR_100` (by
            `max_detections`) and `AR_small, AR_medium, AR_large`, each with its value per class;
            None if the ground truth has no such object.
        """
        return build_coco_metrics(self._compute_tables(), self.classes, self.max_detections)

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Compute the metrics of resampled datasets.

        Args:
            counts: `(R, P)` integers, number of times each image of `image_ids` occurs.

        Returns:
            `metric` and `metric/class` -> `(R,)` values, NaN where undefined.
        """
        joined = self._join_blocks()
        resampler = joined.get_or_compute(
            "resampler",
            lambda: CocoResampler(
                self._compute_matches(), len(joined.order), len(self.classes), self.max_detections
            ),
        )
        class_metrics = resampler.resample(np.asarray(counts), joined.order)
        values: dict[str, NDArray[np.float64]] = {}
        for name, class_values in class_metrics.items():
            overall = average_defined(class_values, axis=1)
            values |= flatten_class_values(name, overall, class_values, self.classes)
        return values

    def details(self) -> dict[str, Any]:
        """Return curves and tables of the images added so far; see `DetailedEvaluator.details`."""
        matches, joined = self._compute_matches(), self._join_blocks()
        labels, matrix = build_confusion_matrix(
            matches, self._find_class_agnostic_pairs, self.classes
        )
        ids = tuple(self._image_indices)
        errors, notes = self._compute_error_types()
        confidence_curves = compute_confidence_curves(matches, self.classes)
        return {
            "pr_curves": compute_pr_curves(self._compute_tables(), self.classes),
            **({"confidence_curves": confidence_curves} if confidence_curves else {}),
            "confusion": {"labels": labels, "matrix": matrix},
            **({"error_types": errors} if errors else {}),
            "images": score_images(matches, [ids[i] for i in joined.order]),
            "notes": notes,
        }

    def match_without_classes(self) -> ClassAgnosticMatch:
        """Match the detections to the objects regardless of class."""
        truth, detections = self._join_blocks().objects
        pairs = self._find_class_agnostic_pairs(np.arange(len(detections.scores)))
        limit = self.max_detections[-1]
        return match_without_classes(truth, detections, pairs, len(self.classes), limit=limit)

    def _add_block(self, block: ImageBlock) -> None:
        """Add images.

        Raises:
            DataError: If an image was added before, a number is not finite, or a label is not an
                index into the classes.
        """
        for image_id in block.image_ids:
            if image_id in self._image_indices:
                raise DataError(f"image {image_id!r} is evaluated twice; add each image only once")
        check_block(block, len(self.classes))
        for image_id in block.image_ids:
            self._image_indices[image_id] = len(self._image_indices)
        self._blocks.append(block)
        self._joined = None

    def _join_blocks(self) -> JoinedBlocks:
        if self._joined is None:
            self._joined = JoinedBlocks(self._blocks)
        return self._joined

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

    @abstractmethod
    def _compute_tables(self) -> CocoTables: ...

    @abstractmethod
    def _compute_matches(self) -> Matches: ...

    @abstractmethod
    def _find_class_agnostic_pairs(self, rows: NDArray[np.int64]) -> Pairs: ...

    @abstractmethod
    def _compute_error_types(self) -> tuple[dict[str, float], list[str]]: ...
