"""Subgroups that are measured on the images: size, brightness, and color against gray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.channels import StoredImage, rgb_to_luminance
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.number_formats import Count

LEAST_CHROMA = 0.05
"""Minimum chroma of a color image. Gray images that are stored as RGB have 0, the noise of their
compression stays below 0.02; stained tissue and photographs lie above 0.1."""

Advance = Callable[[int, int], None]
"""Progress callback, called with (done, total)."""


def split_by_size(sizes: NDArray[np.int64]) -> tuple[list[str], str]:
    """Divide images into thirds by their number of pixels.

    Args:
        sizes: `(N, 2)` height and width of the images in pixels.

    Returns:
        Subgroup of every image, and a sentence with the limits.
    """
    pixels = sizes.prod(axis=1).astype(np.float64)
    return _split_into_thirds(pixels, ("small", "medium", "large"), "pixels", "{:,.0f}")


def split_by_brightness(
    paths: Sequence[Path], max_pixels: int | None = None, advance: Advance | None = None
) -> tuple[list[str], str]:
    """Divide images into thirds by their mean brightness.

    Args:
        paths: Paths of the images.
        max_pixels: Maximum number of pixels per image; see `decode_image`.
        advance: Progress callback.

    Returns:
        Subgroup of every image, and a sentence with the limits.

    Raises:
        DataError: If an image cannot be read.
    """
    values = _measure(paths, compute_brightness, max_pixels, advance)
    is_relative = bool(len(values)) and values.min() >= 0 and values.max() <= 1
    unit = "mean brightness, 0..1" if is_relative else "mean brightness in stored values"
    return _split_into_thirds(values, ("dark", "medium", "bright"), unit, "{:.3g}")


def split_by_color(
    paths: Sequence[Path], max_pixels: int | None = None, advance: Advance | None = None
) -> tuple[list[str], str]:
    """Divide images into color and gray ones.

    Args:
        paths: Paths of the images.
        max_pixels: Maximum number of pixels per image; see `decode_image`.
        advance: Progress callback.

    Returns:
        Subgroup of every image, and a sentence with the rule.

    Raises:
        DataError: If an image cannot be read.
    """
    chroma = _measure(paths, compute_chroma, max_pixels, advance)
    names = [
        "other channels" if np.isnan(value) else "color" if value >= LEAST_CHROMA else "gray"
        for value in chroma.tolist()
    ]
    rule = (
        "gray images have one channel, or three that differ by less than "
        f"{LEAST_CHROMA:.0%} of their brightness"
    )
    return names, rule


def compute_brightness(image: StoredImage) -> float:
    """Compute the mean brightness of an image.

    It is the mean luma of a color image, otherwise the mean of all channels without alpha. Integers
    are divided by the maximum of their data type; values that are not finite are ignored.
    """
    pixels = _drop_alpha(image)
    if image.layout.startswith("color"):
        pixels = rgb_to_luminance(pixels)
    if pixels.dtype.kind == "b":
        return float(pixels.mean())
    if pixels.dtype.kind in "ui":
        return float(pixels.mean(dtype=np.float64) / np.iinfo(pixels.dtype).max)
    finite = pixels[np.isfinite(pixels)]
    return float(finite.mean(dtype=np.float64)) if finite.size else 0.0


def compute_chroma(image: StoredImage) -> float:
    """Compute the mean difference of the highest and the lowest channel, relative to the highest.

    Returns:
        0 for an image with one channel, NaN for one whose channels are not colors.
    """
    pixels = _drop_alpha(image)
    if pixels.shape[2] == 1:
        return 0.0
    if pixels.shape[2] != 3:
        return float("nan")
    highest, lowest = pixels.max(axis=2), pixels.min(axis=2)
    total = highest.sum(dtype=np.float64)
    return float((total - lowest.sum(dtype=np.float64)) / total) if total > 0 else 0.0


def _drop_alpha(image: StoredImage) -> NDArray[Any]:
    return image.pixels[:, :, :-1] if image.layout.endswith("alpha") else image.pixels


def _measure(
    paths: Sequence[Path],
    measure: Callable[[StoredImage], float],
    max_pixels: int | None,
    advance: Advance | None,
) -> NDArray[np.float64]:
    values = np.zeros(len(paths))
    for index, path in enumerate(paths):
        values[index] = measure(decode_image(path, max_pixels=max_pixels))
        if advance:
            advance(index + 1, len(paths))
    return values


def _split_into_thirds(
    values: NDArray[np.float64], names: tuple[str, str, str], unit: str, number_format: str
) -> tuple[list[str], str]:
    """Divide images into the lowest, middle and highest third of a value.

    Images with equal values are never separated. If more than a third of them has the same value,
    the middle third consists of these images. If two values are that frequent, the lowest third
    ends with one of them, and the highest third starts with the other. Without equal values, the
    thirds differ by at most one image.
    """
    low_name, middle_name, high_name = names
    number = len(values)
    if not number:
        return [], ""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        text = number_format.format(distinct[0])
        return [middle_name] * number, f"{Count(number):image has} the same value ({text} {unit})"
    frequent = distinct[3 * counts > number]
    if len(frequent) == 1:
        is_low, is_high = values < frequent[0], values > frequent[0]
        middle_text = number_format.format(frequent[0])
        limits = f"{low_name} below {middle_text}, {high_name} above it ({unit})"
    else:
        if len(frequent) == 2:
            low, high = frequent
        else:
            # The lowest third ends after the value whose rank is nearest to a third of the images.
            ends = np.cumsum(counts)
            low = distinct[np.abs(3 * ends - number).argmin()]
            high = distinct[np.abs(3 * ends - 2 * number).argmin() + 1]
        is_low, is_high = values <= low, values >= high
        low_text, high_text = number_format.format(low), number_format.format(high)
        limits = f"{low_name} up to {low_text}, {high_name} from {high_text} ({unit})"
    return np.where(is_low, low_name, np.where(is_high, high_name, middle_name)).tolist(), limits
