"""Predictions of all heads for one image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.predictions.base import Prediction


@dataclass(frozen=True, eq=False)
class ImageResult(Mapping[str, Prediction]):
    """Predictions for one image: a mapping from head to prediction, in original pixels.

    Attributes:
        predictions: Head name -> prediction.
        heads: Head name -> task, class names and category ids.
        image_id: Id of the image in its dataset.
        name: Name of the image, for messages and drawings.
        size: (height, width) of the original image, pixels.
    """

    predictions: Mapping[str, Prediction]
    heads: Mapping[str, HeadInfo] = field(default_factory=dict)
    image_id: int | str = 0
    name: str = ""
    size: tuple[int, int] = (0, 0)

    def __getitem__(self, head: str) -> Prediction:
        return self.predictions[head]

    def __iter__(self) -> Iterator[str]:
        return iter(self.predictions)

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return {name: head.classes for name, head in self.heads.items()}
