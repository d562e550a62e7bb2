"""Images in, predictions of a model out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_tasks.data.preparation import Preparation
from resnet_tasks.data.samples import sample_of
from resnet_tasks.evaluation.sliding import SlidingWindows
from resnet_tasks.evaluation.views import Predictor, plain_model, predict_at, scales_of
from resnet_tasks.model import resolve_precision
from resnet_tasks.prediction_files import PredictedFile, overview
from resnet_tasks.structures import collate


def predict_arrays(
    model: Predictor,
    images: Sequence[NDArray[Any]],
    preparation: Preparation,
    *,
    precision: str = "auto",
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Predictions for pictures in memory.

    Args:
        model: A `TaskModel` in any mode, or `ManyViews` or `SlidingWindows` of one.
        images: `(h, w, C)` arrays, RGB order.
        preparation: How the model's pictures are prepared.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        names: What messages call the pictures; default: their positions.

    Returns:
        Per picture: head name -> prediction, in pixels of that picture.
    """
    if not images:
        return []
    called = names or [f"picture {i}" for i in range(len(images))]
    chosen = resolve_precision(precision, plain_model(model).device)
    if isinstance(model, SlidingWindows):
        pictures = map(preparation.opened, images, called)
        return [model.predict(each, precision=chosen) for each in pictures]
    batches = []
    for scale in scales_of(model):
        prepared = replace(preparation, scale=preparation.scale * scale)
        pairs = enumerate(zip(images, called, strict=True))
        batches.append(collate([sample_of(prepared, image, i, name) for i, (image, name) in pairs]))
    predictions = predict_at(model, batches, precision=chosen)
    return [{name: each[i] for name, each in predictions.items()} for i in range(len(images))]


def predict_files(
    model: Predictor,
    files: Sequence[Path],
    preparation: Preparation,
    *,
    batch_size: int = 4,
    precision: str = "auto",
) -> Iterator[PredictedFile]:
    """What is found in every file; they are read as they are needed.

    With `SlidingWindows` one after the other is opened, and read in parts where its format allows.
    """
    if isinstance(model, SlidingWindows):
        chosen = resolve_precision(precision, model.model.device)
        for file in files:
            picture = preparation.opened(file)
            found = model.predict(picture, precision=chosen)
            yield PredictedFile(picture.original_size, overview(picture), found)
        return
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        images = [preparation.read(file) for file in part]
        names = [str(file) for file in part]
        predictions = predict_arrays(model, images, preparation, precision=precision, names=names)
        for image, name, found in zip(images, names, predictions, strict=True):
            picture = preparation.opened(image, name)
            yield PredictedFile(picture.original_size, overview(picture), found)
