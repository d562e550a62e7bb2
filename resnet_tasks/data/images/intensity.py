"""From stored values to float32 pixels in 0..1 at the size of the model's input; free of torch.

The order is fixed: decode at full precision -> named intensity step -> float32 in 0..1 -> augment.
8-bit images are resized before the (linear) intensity step, everything else after it, so that
nothing is ever rounded to 8 bits that was not 8 bits in the file. First steps of an augmentation
that only move pixels may move 8 bits: that changes no value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError

Array = NDArray[Any]

_NOT_FINITE = "{} holds values that are not finite; repair the file"


@dataclass(frozen=True)
class Intensity:
    """How stored values become 0..1.

    Attributes:
        type: `auto` divides by the type's range (floats must be 0..1 already), `window` maps level
            +- width/2 to 0..1, `percentile` maps the image's own `low`..`high` percentiles to
            0..1.
        level: Center of the window, in stored values.
        width: Width of the window, in stored values.
        low: Lower percentile.
        high: Upper percentile.
        per_channel: Percentiles of each channel by itself, not of all together.
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
        """`image` as float32 in 0..1.

        Args:
            image: `(h, w, C)` stored values.
            image_name: What messages call it.
            limits: Of the image that `image` is a part of (`limits`); None: it is whole.

        Raises:
            DataError: If `auto` meets values it cannot place, or a value is not finite.
        """
        if self.type == "auto":
            return self._scale_by_dtype(image, image_name)
        values = _to_exact_floats(image, image_name)
        low, high = self._compute_limits(values) if limits is None else limits
        scaled = (values - low) / np.maximum(high - low, 1e-6)
        return np.asarray(np.clip(scaled, 0.0, 1.0), dtype=np.float32)

    @property
    def needs_full_image(self) -> bool:
        """Whether a part of an image cannot be placed in 0..1 without the rest of it."""
        return self.type == "percentile"

    def compute_limits(self, image: Array, image_name: str = "the image") -> tuple[Any, Any]:
        """The stored values that become 0 and 1, of a whole image: numbers, or one per channel.

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
            # Divided, not multiplied by the inverse: exactly the nearest float32 to v / maximum.
            return np.divide(image, np.float32(np.iinfo(image.dtype).max), dtype=np.float32)
        values = image.astype(np.float32)
        if not np.isfinite(image).all():
            raise DataError(_NOT_FINITE.format(image_name))
        if values.min() < 0 or values.max() > 1:
            raise DataError(
                f"{image_name} holds {image.dtype} values from {values.min():g} to "
                f"{values.max():g}, "
                "whose range is not known; set data.intensity to a window (level, width) "
                "or to percentile"
            )
        return values


def _to_exact_floats(image: Array, image_name: str) -> NDArray[np.floating[Any]]:
    # float32 holds whole numbers up to 24 bits exactly.
    is_wide = image.dtype.itemsize > 2 and image.dtype != np.float32
    values: NDArray[np.floating[Any]] = image.astype(np.float64 if is_wide else np.float32)
    if not np.isfinite(values).all():
        raise DataError(_NOT_FINITE.format(image_name))
    return values


@dataclass(frozen=True)
class Resize:
    """Brings images to one box.

    Attributes:
        height: Of the box, pixels.
        width: Of the box, pixels.
        keep_ratio: Fit inside the box; False stretches to it exactly.
    """

    height: int
    width: int
    keep_ratio: bool = True

    def compute_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) that an image of size `original` gets."""
        if not self.keep_ratio:
            return (self.height, self.width)
        scale = min(self.height / original[0], self.width / original[1])
        return (max(1, round(original[0] * scale)), max(1, round(original[1] * scale)))


def resize_pixels(image: Array, size: tuple[int, int]) -> Array:
    """`(h, w, C)` at a new (height, width): by area when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    height, width = image.shape[:2]
    if (size[0] - height) * (size[1] - width) < 0:
        # OpenCV averages over areas only where both axes shrink; with one of them growing it falls
        # back to weights that shift the image by up to 0.2 pixels.
        smaller = (min(height, size[0]), min(width, size[1]))
        return resize_pixels(resize_pixels(image, smaller), size)
    shrinks = size[0] * size[1] < height * width
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    if image.shape[2] > 4:  # OpenCV shrinks by area at most 4 channels at once.
        parts = [image[:, :, i : i + 4] for i in range(0, image.shape[2], 4)]
        return np.concatenate([resize_pixels(part, size) for part in parts], axis=2)
    resized = cv2.resize(image, (size[1], size[0]), interpolation=mode)
    return np.asarray(resized[:, :, None] if resized.ndim == 2 else resized)


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """Resize label maps, masks or images by the nearest pixel center; values are never mixed.

    Pixel i of n takes the source pixel of m that holds its center, (i + 1/2) m / n; a center
    between two source pixels takes the second one. Computed in integers: OpenCV's `INTER_NEAREST`
    takes the pixel at the corner instead, and `INTER_NEAREST_EXACT` of OpenCV 5.0 is one source
    pixel off at such ties.

    Args:
        labels: `(h, w)` or `(h, w, C)`, any type.
        size: New (height, width).
    """
    if labels.shape[:2] == size:
        return labels
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape[:2], strict=True)
    )
    if size[0] <= labels.shape[0]:  # the shrinking axis first: less is copied
        return np.asarray(labels.take(rows, axis=0).take(columns, axis=1))
    return np.asarray(labels.take(columns, axis=1).take(rows, axis=0))
