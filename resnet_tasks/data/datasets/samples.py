"""Conversion between the numpy arrays of prepared images and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.structures.samples import Sample


def as_tensor(values: NDArray[Any]) -> Tensor:
    """Convert a `(h, w, C)` array to a `(C, h, w)` tensor."""
    # Arrays of decoders may be read-only, which torch does not support: these are copied.
    return torch.from_numpy(np.require(values, requirements=["C", "W"])).permute(2, 0, 1)


def get_pixels(sample: Sample) -> NDArray[Any]:
    """Return the `(h, w, C)` pixels of a sample."""
    return sample.image.permute(1, 2, 0).numpy()


def make_sample(
    preparation: Preparation, image: NDArray[Any], image_id: int | str = 0, name: str = ""
) -> Sample:
    """Return the sample of one stored image, without annotations.

    Args:
        preparation: Steps from the stored image to the input of the model.
        image: `(h, w)` or `(h, w, C)` stored values; uint8, uint16 or float.
        image_id: Id for the prediction.
        name: Image name in error messages.

    Raises:
        DataError: If the shape does not fit the model.
    """
    values, geometry = preparation.prepare_image(image, name)
    return Sample(as_tensor(values), geometry, image_id, name)
