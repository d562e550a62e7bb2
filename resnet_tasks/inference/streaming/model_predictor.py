"""Stream predictor for torch models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_tasks.data.datasets.samples import make_sample
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.sliding_window import SlidingWindows
from resnet_tasks.inference.streaming.stream_predictor import ReadyImage
from resnet_tasks.inference.test_time_augmentation import (
    Predictor,
    get_scales,
    predict_batches,
    unwrap_model,
)
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.structures.samples import collate


@dataclass(frozen=True)
class ModelPredictor:
    """`StreamPredictor` that wraps a `TaskModel`, `TtaPredictor` or `SlidingWindows`.

    Attributes:
        model: Wrapped model.
        preparation: Preparation of the model's images.
        classes: Head name -> class names; only needed for writing files, like `category_ids` and
            `categories`.
        category_ids: Head name -> category id of every label.
        categories: Categories of the dataset, as in a COCO file.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        batch_size: Images per forward pass.
    """

    model: Predictor
    preparation: Preparation
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    category_ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    categories: Sequence[Mapping[str, Any]] = ()
    precision: str = "auto"
    batch_size: int = 4

    def read(self, source: Path | NDArray[Any], name: str) -> ReadyImage:
        """Read and prepare an image; see `StreamPredictor.read`.

        For sliding windows the file is only opened here, and read in regions during prediction.
        """
        if isinstance(self.model, SlidingWindows):
            return ReadyImage(self.preparation.open_image(source, name), None)
        image = self.preparation.read(source) if isinstance(source, Path) else source
        ready = [
            make_sample(
                replace(self.preparation, scale=self.preparation.scale * scale), image, 0, name
            )
            for scale in get_scales(self.model)
        ]
        return ReadyImage(self.preparation.open_image(image, name), ready)

    def predict(self, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
        """Predict images; see `StreamPredictor.predict`."""
        precision = resolve_precision(self.precision, unwrap_model(self.model).device)
        if isinstance(self.model, SlidingWindows):
            return [
                self.model.predict(ready_image.image, precision=precision) for ready_image in images
            ]
        batches = [
            collate(samples)
            for samples in zip(*(ready_image.ready for ready_image in images), strict=True)
        ]
        predictions = predict_batches(self.model, batches, precision=precision)
        return [
            {head: head_predictions[i] for head, head_predictions in predictions.items()}
            for i in range(len(images))
        ]
