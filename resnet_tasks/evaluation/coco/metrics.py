"""COCO's twelve metrics computed from its tables, and the description of the protocol."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.backends import CocoTables
from resnet_tasks.evaluation.numerics.weighted_means import nan_to_none
from resnet_tasks.structures.evaluation import Metric

SIZES = {"": 0, "small": 1, "medium": 2, "large": 3}
"""Size class -> index: area below 32², up to 96², and above, from the `area` field of the file
(COCO)."""


def describe_protocol(kind: str, iou_type: str, backend: str, limits: Sequence[int]) -> str:
    """Describe in one sentence how the metrics are computed."""
    return (
        f"COCO {kind} evaluation (equal to pycocotools COCOeval, iouType {iou_type}), computed "
        f"with {backend}: AP over IoU 0.50:0.05:0.95 and 101 recall levels, at most {limits[-1]} "
        "detections per image and class, size classes by the annotations' area, crowd regions "
        "neither found nor missed, mean over the classes that occur in the "
        "ground truth."
    )


def build_coco_metrics(
    tables: CocoTables, classes: Sequence[str], limits: Sequence[int]
) -> dict[str, Metric]:
    """Build COCO's metrics, each with its value per class, from tables."""
    shape = tables.precision.shape
    # Mean over the recall levels; a class that is absent from the ground truth is -1 at all of
    # them.
    precision = np.where(
        tables.precision[:, 0, ..., -1] == -1, np.nan, tables.precision[..., -1].sum(1) / shape[1]
    )
    recall = np.where(tables.recall == -1, np.nan, tables.recall)
    return {
        name: Metric(
            _average_defined(values[0]),
            dict(zip(classes, map(nan_to_none, values[0].tolist()), strict=True)),
        )
        for name, values in compute_class_metrics(precision[None], recall[None], limits).items()
    }


def compute_class_metrics(
    precision: NDArray[np.float64], recall: NDArray[np.float64], limits: Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """Compute every metric per class, for many resamples at once.

    Args:
        precision: `(R, T, K, S)` average precision.
        recall: `(R, T, K, S, M)`.
        limits: Limits `(M,)` of detections per image and class, ascending.

    Returns:
        Metric -> `(R, K)` values.
    """
    metrics = {
        "AP": precision[..., 0].mean(axis=1),
        "AP50": precision[:, 0, :, 0],
        "AP75": precision[:, 5, :, 0],
    }
    sized = [(name, index) for name, index in SIZES.items() if name]
    metrics |= {f"AP_{name}": precision[..., i].mean(axis=1) for name, i in sized}
    for position, limit in enumerate(limits):
        metrics[f"AR_{limit}"] = recall[..., 0, position].mean(axis=1)
    metrics |= {f"AR_{name}": recall[..., i, -1].mean(axis=1) for name, i in sized}
    return metrics


def _average_defined(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else None
