"""Metrics, confidence intervals and sliding windows of an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from resnet_tasks.recipe.schema.base import BatchSize, Fraction, Overlap, RecipeModel, Window


class SlidingRecipe(RecipeModel):
    """Sliding windows for the prediction of large images.

    Attributes:
        height: Height of a window, pixels of the image after `data.resize`.
        width: Width of a window, pixels of the image after `data.resize`.
        overlap: Minimum fraction of a window that its neighbor overlaps.
        nms_iou: IoU above which boxes of two windows are merged into one object.
    """

    height: Window
    width: Window
    overlap: Overlap = 0.25
    nms_iou: Fraction = 0.5


class EvaluationRecipe(RecipeModel):
    """Metrics, the metric that selects the best checkpoint, and confidence intervals.

    Attributes:
        best: Metric that selects the best checkpoint, as HEAD/METRIC, or the mean of several, such
            as `mean(objects/AP, scene/mIoU)`. None: the main metric of the first head.
        best_per_head: Whether to also keep the best checkpoint of each head by its main metric, as
            `best-HEAD`.
        batch_size: Images per batch in evaluation. None: `training.batch_size`.
        backend: Implementation of the COCO metrics; both give the same numbers.
        resamples: Number of half samples for the 95 % intervals; 0: no intervals.
        sliding: Sliding windows for evaluation and `predict`. None: those of `data.tiles`, else
            whole images.
        extra: Additional evaluators: head -> evaluator -> its options (null: the defaults), such as
            `{cells: {froc: {hit: center}}}`. `resnet-tasks evaluators` lists them.
    """

    best: str | None = None
    best_per_head: bool = False
    batch_size: BatchSize | None = None
    backend: Literal["hotcoco", "pycocotools"] = "hotcoco"
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    sliding: SlidingRecipe | None = None
    extra: dict[str, dict[str, dict[str, Any] | None]] = Field({})
