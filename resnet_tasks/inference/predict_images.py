"""Prediction of a few images given as arrays or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.streaming.model_predictor import ModelPredictor
from resnet_tasks.inference.test_time_augmentation import Predictor


def predict_images(
    model: Predictor,
    images: Sequence[NDArray[Any] | Path],
    preparation: Preparation,
    *,
    precision: str = "auto",
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Predict a few images, which form one batch.

    Args:
        model: `TaskModel` in any mode, or a `TtaPredictor` or `SlidingWindows` that wraps one. With
            `SlidingWindows`, files are read in regions if their format allows it.
        images: `(h, w, C)` arrays in RGB order, or paths of image files.
        preparation: Preparation of the model's images.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        names: Names of the images in messages; default: their paths or positions.

    Returns:
        Head name -> prediction in pixels of the original image, for each image.
    """
    if not images:
        return []
    image_names = names or [
        str(image) if isinstance(image, Path) else f"image {i}" for i, image in enumerate(images)
    ]
    predictor = ModelPredictor(model, preparation, precision=precision)
    return predictor.predict([*map(predictor.read, images, image_names)])
