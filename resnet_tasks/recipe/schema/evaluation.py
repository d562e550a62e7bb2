"""Metrics, confidence intervals and sliding windows of an evaluation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from resnet_tasks.recipe.schema.base import Fraction, Overlap, RecipeModel, Window


class SlidingRecipe(RecipeModel):
    """Sliding windows for the prediction of large images."""

    height: Window = Field(description="Height of a window, pixels of the image after data.resize")
    width: Window
    overlap: Overlap = Field(
        0.25, description="Minimum share of a window that its neighbor overlaps"
    )
    nms_iou: Fraction = Field(
        0.5, description="Boxes of two windows that overlap more are merged into one object"
    )


class EvaluationRecipe(RecipeModel):
    """Metrics, the metric that selects the best checkpoint, and confidence intervals."""

    best: str | None = Field(None, description="head/metric; default: the first head's main metric")
    batch_size: Annotated[int, Field(ge=1)] | None = None
    backend: Literal["hotcoco", "pycocotools"] = "hotcoco"
    resamples: Annotated[int, Field(ge=0)] = Field(
        1000, description="Bootstrap resamples for the 95 % intervals; 0: no intervals"
    )
    sliding: SlidingRecipe | None = Field(
        None, description="Predict window by window, in both evaluation and predict"
    )
    extra: dict[str, dict[str, dict[str, Any] | None]] = Field(
        {},
        description=(
            "Head -> additional evaluators, each with its options: froc or kitti for boxes, "
            "surface for pixels"
        ),
    )
