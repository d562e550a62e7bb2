"""Faster color transforms of albumentations for float32 images.

Parameters, randomness and results are those of albumentations (to 1e-5). The originals expand a
factor to an array as large as the image, multiply in float64, and wrap hues by a division per
pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]


class ColorJitter(albumentations.ColorJitter):  # type: ignore[misc]
    """Random change of brightness, contrast, saturation and hue, in random order."""

    def apply(
        self,
        img: Array,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        order: Sequence[int],
        **params: Any,
    ) -> Array:
        """Change the colors of an image.

        Args:
            img: `(h, w, 3)` or `(h, w, 1)`; float32 in 0..1, or uint8.
            brightness: Factor of all values.
            contrast: Factor of the differences from the mean gray value of the image.
            saturation: Factor of the differences from the gray value of the pixel.
            hue: Offset of the hue in turns.
            order: Order of the four steps, as their indices.
            **params: Unused parameters.
        """
        if img.dtype != np.float32 or img.shape[2:] not in ((1,), (3,)):
            return np.asarray(
                super().apply(img, brightness, contrast, saturation, hue, order, **params)
            )
        steps: list[tuple[Callable[[Floats, float, Floats], Floats], float]] = [
            (_adjust_brightness, brightness),
            (_adjust_contrast, contrast),
            (_adjust_saturation, saturation),
            (_shift_hue, hue),
        ]
        buffer = np.empty_like(img)  # output of the first step; the others work in place in it
        for i in order:
            step, factor = steps[i]
            img = step(img, factor, buffer)
        return img


class RandomBrightnessContrast(albumentations.RandomBrightnessContrast):  # type: ignore[misc]
    """Random affine change of the values: a factor and an offset."""

    def apply(self, img: Array, alpha: float, beta: float, **params: Any) -> Array:
        """Change the values of an image.

        Args:
            img: `(h, w, C)`; float32 in 0..1, or uint8.
            alpha: Factor of all values.
            beta: Offset of all values.
            **params: Unused parameters.
        """
        if img.dtype != np.float32:
            return np.asarray(super().apply(img, alpha, beta, **params))
        return _scale(img, alpha, beta, np.empty_like(img))


def _scale(image: Floats, factor: float, offset: float, out: Floats) -> Floats:
    np.multiply(image, np.float32(factor), out=out)
    if offset:
        out += np.float32(offset)
    return np.clip(out, 0.0, 1.0, out=out)


def _adjust_brightness(image: Floats, factor: float, out: Floats) -> Floats:
    return _scale(image, factor, 0.0, out)


def _adjust_contrast(image: Floats, factor: float, out: Floats) -> Floats:
    gray = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return _scale(image, factor, float(gray.mean()) * (1 - factor), out)


def _adjust_saturation(image: Floats, factor: float, out: Floats) -> Floats:
    if image.shape[2] == 1:
        return image
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.addWeighted(image, factor, gray, 1 - factor, 0.0, dst=out)
    return np.clip(out, 0.0, 1.0, out=out)


def _shift_hue(image: Floats, turns: float, out: Floats) -> Floats:
    if image.shape[2] == 1 or not turns:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV accepts hues above 360 degrees, but not below 0.
    cv2.add(hsv, (turns % 1.0 * 360, 0.0, 0.0, 0.0), dst=hsv)
    cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out)
    return out
