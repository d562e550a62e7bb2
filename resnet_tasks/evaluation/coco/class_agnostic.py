"""COCO's AP at IoU 0.5 with all classes taken as one, and the classes that it confuses.

Shape glossary: `K` classes, `D` detections, `G` annotated objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.bootstrap_ap import CocoResampler
from resnet_tasks.evaluation.coco.matching import Objects, Pairs, match_detections


@dataclass(frozen=True)
class ClassAgnosticMatch:
    """Detections matched to objects regardless of class.

    Attributes:
        ap50: AP at IoU 0.5; None without objects.
        confusion: `(K, K)` int64, number of detections of each class (row) that are matched to an
            object of each class (column).
    """

    ap50: float | None
    confusion: NDArray[np.int64]


def match_without_classes(
    truth: Objects, detections: Objects, pairs: Pairs, num_classes: int, *, limit: int
) -> ClassAgnosticMatch:
    """Match detections to objects as if all had the same class (pycocotools: `useCats = 0`).

    Args:
        truth: Annotated objects.
        detections: Detections.
        pairs: Pairs of detections and objects of the same image and any class.
        num_classes: Number of classes, `K`.
        limit: Maximum number of detections per image.
    """
    matches = match_detections(
        replace(truth, labels=np.zeros_like(truth.labels)),
        replace(detections, labels=np.zeros_like(detections.labels)),
        pairs,
        limit=limit,
    )
    num_images = 1 + max(truth.images.max(initial=-1), detections.images.max(initial=-1))
    resampler = CocoResampler(matches, num_images, 1, (limit,))
    metrics = resampler.resample(np.ones((1, num_images), np.int64), np.arange(num_images))
    ap50 = float(metrics["AP50"][0, 0])
    matched = matches.matches_at_iou50
    is_matched = matched >= 0
    confusion = np.zeros((num_classes, num_classes), np.int64)
    rows = detections.labels[matches.rows[is_matched]]
    np.add.at(confusion, (rows, truth.labels[matched[is_matched]]), 1)
    return ClassAgnosticMatch(None if np.isnan(ap50) else ap50, confusion)
