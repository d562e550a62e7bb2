"""How a stored picture becomes a sample; the same at training and at prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.data.transforms import Intensity, Resize, resize_pixels
from resnet_tasks.errors import DataError
from resnet_tasks.structures import Geometry, Sample


@dataclass(frozen=True)
class Preparation:
    """The steps between a decoded picture and what a model takes, augmentation apart.

    Attributes:
        channels: Channels that the model takes.
        resize: Box that pictures are brought to; None keeps the stored size.
        intensity: How stored values become 0..1.
        scale: Sizes relative to that; for test-time augmentation.
    """

    channels: int = 3
    resize: Resize | None = None
    intensity: Intensity = field(default_factory=Intensity)
    scale: float = 1.0

    def input_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that a picture of size `original` gets."""
        height, width = self.resize.size(original) if self.resize else original
        return (max(1, round(height * self.scale)), max(1, round(width * self.scale)))

    def pixels(self, image: NDArray[Any], where: str) -> NDArray[Any]:
        """A picture through intensity step and resize.

        Args:
            image: `(h, w, C)` as stored.
            where: What messages call it.

        Returns:
            `(h', w', C)`: still uint8 where the intensity step is a plain division, which is then
            left to `unit_range` (a quarter of the memory); else float32 in 0..1.
        """
        is_plain = image.dtype == np.uint8 and self.intensity.type == "auto"
        values = image if is_plain else self.intensity(image, where)
        return resize_pixels(values, self.input_size((image.shape[0], image.shape[1])))

    def sample(self, image: NDArray[Any], image_id: int | str = 0, name: str = "") -> Sample:
        """A sample of one stored picture, without annotations.

        Args:
            image: `(h, w)` or `(h, w, C)`; uint8, uint16 or float.
            image_id: For the prediction.
            name: For messages.

        Raises:
            DataError: If the shape does not fit the model.
        """
        array = image[:, :, None] if image.ndim == 2 else image
        if array.ndim == 3 and array.shape[2] == 1 and self.channels == 3:
            array = np.repeat(array, 3, axis=2)
        if array.ndim != 3 or array.shape[2] != self.channels or 0 in array.shape:
            raise DataError(
                f"{name or 'the picture'} has shape {image.shape}; the model takes (height, "
                f"width, {self.channels})"
                + (" or (height, width)" if self.channels in (1, 3) else "")
            )
        values = unit_range(self.pixels(array, name or "the picture"))
        geometry = Geometry.resized(
            (int(array.shape[0]), int(array.shape[1])),
            (int(values.shape[0]), int(values.shape[1])),
        )
        return Sample(as_tensor(values), geometry, image_id, name)


def unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """What `Preparation.pixels` gives, as float32 in 0..1."""
    return Intensity()(pixels) if pixels.dtype == np.uint8 else pixels


def as_tensor(values: NDArray[np.float32]) -> Tensor:
    """`(h, w, C)` -> `(C, h, w)`."""
    return torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)
