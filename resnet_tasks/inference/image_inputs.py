"""Images in the forms that Python callers have them: paths, arrays, Pillow images and tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.images.channels import convert_channels, decode_pillow_image
from resnet_tasks.data.images.decoding import to_native_byte_order
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import DataError
from resnet_tasks.inference.predictor import Predictor, predict_sources
from resnet_tasks.structures.image_result import ImageResult


class TensorLike(Protocol):
    """Torch tensor, as far as this module uses it; predictions with exports work without torch."""

    def detach(self) -> Any:
        """Return the tensor without its gradient history."""
        ...

    def cpu(self) -> Any:
        """Return the tensor in the memory of the CPU."""
        ...


ImageInput = str | os.PathLike[str] | NDArray[Any] | Image.Image | TensorLike
"""One image in a form that `load_input` converts."""
ImageInputs = list[Any] | tuple[Any, ...]
"""Several images, each of the type `ImageInput`."""

ALLOWED = "the path of an image file, a NumPy array, a Pillow image or a torch tensor"


def predict_inputs(
    predictor: Predictor,
    images: ImageInput | ImageInputs,
    preparation: Preparation,
    *,
    batch_size: int | None = None,
    names: Sequence[str] = (),
) -> ImageResult | list[ImageResult]:
    """Predict one image, or a list of images.

    Args:
        predictor: Predictor of a model; one that reads regions gets one image at a time.
        images: Image in a form that `load_input` converts, or a list or tuple of such images.
        preparation: Preparation of the model's images.
        batch_size: Maximum number of images per batch; None: all images form one batch.
        names: Names of the images in messages; default: their paths or positions.

    Returns:
        Predictions of one image; for a list or tuple, a list of them.

    Raises:
        DataError: If an image cannot be read, or does not fit the model.
    """
    if not isinstance(images, list | tuple):
        name = names[0] if names else _name_image(images, "the image")
        source = load_input(images, preparation.channels, name)
        return predict_sources(predictor, [source], preparation, [name])[0]
    if names and len(names) != len(images):
        raise DataError(
            f"there are {len(names)} names for {len(images)} images; pass one name per image"
        )
    image_names = list(names) or [
        _name_image(image, f"image {i}") for i, image in enumerate(images)
    ]
    # All images are converted first, so that no time is spent on a list with an invalid image.
    sources = [
        load_input(image, preparation.channels, name)
        for image, name in zip(images, image_names, strict=True)
    ]
    step = 1 if predictor.reads_regions else batch_size or max(len(sources), 1)
    results: list[ImageResult] = []
    for start in range(0, len(sources), step):
        batch = slice(start, start + step)
        results += predict_sources(predictor, sources[batch], preparation, image_names[batch])
    return results


def load_input(image: Any, channels: int, name: str) -> Path | NDArray[Any]:
    """Return an image as a path or as an `(h, w)` or `(h, w, C)` array of stored values.

    Args:
        image: Path of an image file; `(h, w)`, `(h, w, C)` or `(C, h, w)` NumPy array or torch
            tensor in RGB order; or Pillow image, whose palette, alpha channel and color space are
            converted as those of a file.
        channels: Number of channels of the model.
        name: Name of the image in error messages.

    Raises:
        DataError: If it is something else, or has more than one possible meaning.
    """
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if isinstance(image, Image.Image):
        return convert_channels(decode_pillow_image(image, name), channels, name)
    is_tensor = hasattr(image, "detach") and hasattr(image, "cpu")
    array = _tensor_to_array(image, name) if is_tensor else _to_array(image, name)
    if array.dtype.kind not in "buif":
        raise DataError(
            f"{name} has values of type {array.dtype}; allowed: uint8, uint16 or other numbers"
        )
    if array.dtype.kind == "b":
        return _move_channels_last(array, channels, name, is_tensor) * np.uint8(255)
    native = array if array.dtype.isnative else to_native_byte_order(array)
    return _move_channels_last(native, channels, name, is_tensor)


def _name_image(image: Any, default: str) -> str:
    return str(image) if isinstance(image, str | os.PathLike) else default


def _tensor_to_array(tensor: Any, name: str) -> NDArray[Any]:
    try:
        dense = tensor.detach().cpu()
        # NumPy has no 8-bit and no brain floats; float32 represents both exactly.
        has_numpy_type = not dense.is_floating_point() or dense.element_size() == 8
        return np.asarray((dense if has_numpy_type else dense.float()).numpy())
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{name} is a tensor that cannot be converted to a NumPy array: {error}"
        ) from None


def _to_array(image: Any, name: str) -> NDArray[Any]:
    if not hasattr(image, "__array__"):
        raise DataError(
            f"{name} has the type {type(image).__name__}; allowed: {ALLOWED}; several images are "
            "passed as a list"
        )
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise DataError(
            f"{name} has masked values, which a model cannot ignore; replace them with "
            "image.filled(VALUE)"
        )
    return np.asarray(image)


def _move_channels_last(
    array: NDArray[Any], channels: int, name: str, is_tensor: bool
) -> NDArray[Any]:
    """Return an image with its channels in the last axis.

    The channels are in the first axis if only its length fits the model. If both fit, they are in
    the last axis of a NumPy array. Tensors have no such convention.

    Raises:
        DataError: If both axes of a tensor fit the model.
    """
    if array.ndim != 3 or not array.size:
        return array  # `Preparation.convert_channels` checks the shape
    accepted = (1, 3) if channels == 3 else (channels,)
    is_first, is_last = (array.shape[axis] in accepted for axis in (0, 2))
    if is_tensor and is_first and is_last:
        raise DataError(
            f"{name} is a tensor of the shape {array.shape}, whose first or last axis may be the "
            "channels; pass a NumPy array (height, width, channels)"
        )
    has_alpha = channels == 3 and array.shape[2] in (2, 4)
    if is_first and not is_last and not has_alpha:
        array = np.moveaxis(array, 0, 2)
    return np.ascontiguousarray(array)
