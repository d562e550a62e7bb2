"""Differences between the predictions of an exported model and of the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance

EXACT = Tolerance(box=0.1, score=1e-3, unmatched=0.01, pixels=1e-3)
"""Tolerance if both models compute in float32; some overlaps lie at the threshold of NMS."""
ROUNDED = Tolerance(box=8.0, score=0.1, unmatched=0.015, pixels=0.02)
"""Tolerance if the engine computes in bf16, which has 8 bits of precision.

BCCD's detector, trained for 14 epochs, lost 1.9 % of the scores and 0.33 points of AP (of 56.7).
"""


def compare_predictions(
    model_predictions: Sequence[Mapping[str, Prediction]],
    export_predictions: Sequence[Mapping[str, Prediction]],
    tolerance: Tolerance,
) -> dict[str, OutputDifference]:
    """Return the maximum differences per head.

    Args:
        model_predictions: Per image: head name -> prediction of the model.
        export_predictions: Per image: head name -> prediction of the export.
        tolerance: Differences up to which two detections match.
    """
    differences: dict[str, OutputDifference] = {}
    for expected, exported in zip(model_predictions, export_predictions, strict=True):
        for head, prediction in expected.items():
            difference = differences.setdefault(head, OutputDifference())
            difference.images += 1
            prediction.compare(exported[head], tolerance, difference)
    return differences
