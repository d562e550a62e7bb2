"""Images in, predictions of a model out."""

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
    """Predictions for a few images, which go through the model together.

    Args:
        model: A `TaskModel` in any mode, or `ManyViews` or `SlidingWindows` of one. With
            `SlidingWindows` files are read in parts where their format allows.
        images: `(h, w, C)` arrays, RGB order, or files.
        preparation: How the model's images are prepared.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        names: What messages call the images; default: their files or positions.

    Returns:
        Per image: head name -> prediction, in pixels of that image.
    """
    if not images:
        return []
    image_names = names or [
        str(image) if isinstance(image, Path) else f"image {i}" for i, image in enumerate(images)
    ]
    predictor = ModelPredictor(model, preparation, precision=precision)
    return predictor.predict([*map(predictor.read, images, image_names)])
