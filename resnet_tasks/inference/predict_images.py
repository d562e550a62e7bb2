"""Prediction of a few images given as arrays or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.predictor import Predictor, WholeImagePredictor, predict_sources
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.image_result import ImageResult


def as_predictor(model: TaskModel | Predictor, precision: str = "auto") -> Predictor:
    """Return a predictor of whole images for a model; a predictor is returned unchanged."""
    if isinstance(model, TaskModel):
        return WholeImagePredictor(TorchOutputs(model, precision))
    return model


def predict_images(
    model: TaskModel | Predictor,
    images: Sequence[NDArray[Any] | Path],
    preparation: Preparation,
    *,
    precision: str = "auto",
    names: Sequence[str] = (),
) -> list[ImageResult]:
    """Predict a few images, which form one batch.

    Args:
        model: `TaskModel` in any mode, or a predictor. A `SlidingWindowPredictor` reads files in
            regions if their format allows it.
        images: `(h, w, C)` arrays in RGB order, or paths of image files.
        preparation: Preparation of the model's images.
        precision: `auto`, `fp32`, `bf16` or `fp16` for a `TaskModel`; ignored for a predictor.
        names: Names of the images in messages; default: their paths or positions.

    Returns:
        Predictions of every head in pixels of the original image, for each image.
    """
    return predict_sources(as_predictor(model, precision), images, preparation, names)
