"""Conversion of stored values to float32 pixels in 0..1 at the model's input size, without torch.

The order is fixed: decode at full precision -> named intensity step -> float32 in 0..1 -> augment.
8-bit images are resized before the (linear) intensity step, all others after it, so that only
values with 8 bits in the file are rounded to 8 bits. The leading steps of an augmentation that only
move pixels may work on 8 bits, since that changes no value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError

Array = NDArray[Any]

_NOT_FINITE = "{} holds values that are not finite (NaN or infinity); replace them"


@dataclass(frozen=True)
class Intensity:
    """Mapping of stored values to 0..1.

    Attributes:
        type: `auto` divides by the range of the data type (floats must already be in 0..1),
            `window` maps level +- width/2 to 0..1, `percentile` maps the `low`..`high` percentiles
            of the image to 0..1.
        level: Center of the window, in stored values.
        width: Width of the window, in stored values.
        low: Lower percentile.
        high: Upper percentile.
        per_channel: Whether to compute percentiles for each channel instead of over all channels.
    """

    type: Literal["auto", "window", "percentile"] = "auto"
    level: float | None = None
    width: float | None = None
    low: float = 0.5
    high: float = 99.5
    per_channel: bool = False

    def __call__(
        self,
        image: Array,
        image_name: str = "the image",
        *,
        limits: tuple[Any, Any] | None = None,
    ) -> NDArray[np.float32]:
        """Return `image` as float32 in 0..1.

        Args:
            image: `(h, w, C)` stored values.
            image_name: Image name in error messages.
            limits: Limits of the full image if `image` is a part of it (see `compute_limits`); None
                if it is the full image.

        Raises:
            DataError: If `auto` does not know the range of the values, or a value is not finite.
        """
        if self.type == "auto":
            return self._scale_by_dtype(image, image_name)
        values = _to_exact_floats(image, image_name)
        low, high = self._compute_limits(values) if limits is None else limits
        scaled = (values - low) / np.maximum(high - low, 1e-6)
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)

    @property
    def needs_full_image(self) -> bool:
        """True if mapping a part of an image to 0..1 requires the whole image."""
        return self.type == "percentile"

    def compute_limits(self, image: Array, image_name: str = "the image") -> tuple[Any, Any]:
        """Return the stored values that map to 0 and 1 in a whole image.

        The limits are numbers, or arrays with one value per channel.

        Raises:
            DataError: If a value is not finite.
        """
        return self._compute_limits(_to_exact_floats(image, image_name))

    def _compute_limits(self, values: NDArray[np.floating[Any]]) -> tuple[Any, Any]:
        if self.type == "window":
            assert self.level is not None
            assert self.width is not None
            return self.level - self.width / 2, self.level + self.width / 2
        axes = (0, 1) if self.per_channel else None
        low, high = np.percentile(values, (self.low, self.high), axis=axes)
        return low, high

    @staticmethod
    def _scale_by_dtype(image: Array, image_name: str) -> NDArray[np.float32]:
        if image.dtype in (np.uint8, np.uint16):
            # Division gives the float32 nearest to v / maximum, unlike multiplying by the inverse.
            return np.divide(image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32)
        values = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise DataError(_NOT_FINITE.format(image_name))
        if values.min() < 0 or values.max() > 1:
            raise DataError(
                f"{image_name} holds {image.dtype} values from {values.min():g} to "
                f"{values.max():g}, whose range is unknown; allowed: uint8, uint16, and floats "
                "from 0 to 1; for other values, set data.intensity to a window (level, width) or "
                "to percentile"
            )
        return values


def _to_exact_floats(image: Array, image_name: str) -> NDArray[np.floating[Any]]:
    # float32 represents integers up to 24 bits exactly.
    is_wide = image.dtype.itemsize > 2 and image.dtype != np.float32
    values: NDArray[np.floating[Any]] = image.astype(np.float64 if is_wide else np.float32)
    if not np.isfinite(values).all():
        raise DataError(_NOT_FINITE.format(image_name))
    return values


@dataclass(frozen=True)
class Resize:
    """Resizing of images to a common box.

    Attributes:
        height: Height of the box in pixels.
        width: Width of the box in pixels.
        keep_ratio: Whether to keep the aspect ratio and fit inside the box; False stretches to it.
    """

    height: int
    width: int
    keep_ratio: bool = True

    def compute_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Return the resized (height, width) of an image with (height, width) `original`."""
        if not self.keep_ratio:
            return (self.height, self.width)
        scale = min(self.height / original[0], self.width / original[1])
        return (max(1, round(original[0] * scale)), max(1, round(original[1] * scale)))


def resize_pixels(image: Array, size: tuple[int, int]) -> Array:
    """Resize a `(h, w, C)` image to (height, width): by area when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    height, width = image.shape[:2]
    if (size[0] - height) * (size[1] - width) < 0:
        # OpenCV averages over areas only if both axes shrink. If one of them grows, it falls back
        # to weights that shift the image by up to 0.2 pixels.
        smaller = (min(height, size[0]), min(width, size[1]))
        return resize_pixels(resize_pixels(image, smaller), size)
    shrinks = size[0] * size[1] < height * width
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    if image.shape[2] > 4:  # OpenCV's area interpolation supports at most 4 channels.
        parts = [image[:, :, i : i + 4] for i in range(0, image.shape[2], 4)]
        return np.concatenate([resize_pixels(part, size) for part in parts], axis=2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=mode)
    return np.asarray(resized[:, :, None] if resized.ndim == 2 else resized)
