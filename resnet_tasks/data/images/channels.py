"""Decoded images and the conversion of their channels to a requested number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

Array = NDArray[Any]


ChannelLayout = Literal["gray", "gray and alpha", "color", "color and alpha", "bands"]


_ALPHA_AFTER: dict[str, ChannelLayout] = {"gray and alpha": "gray", "color and alpha": "color"}


@dataclass(frozen=True)
class StoredImage:
    """Decoded image file.

    Attributes:
        pixels: `(height, width, C)` array with the dtype of the file, upright; color in RGB order.
        layout: Meaning of the channels; `bands` if the file does not specify it.
        pages: Number of pages of the file, which are concatenated along the channels.
    """

    pixels: Array
    layout: ChannelLayout
    pages: int = 1


def convert_channels(stored_image: StoredImage, channels: int, path: Path | str) -> Array:
    """Convert a decoded image, or a crop of it, to a number of channels; see `read_image`.

    Args:
        stored_image: Decoded image.
        channels: Requested number of channels.
        path: Path or name of the image, for the error message.

    Raises:
        DataError: If its channels cannot be converted to the requested number.
    """
    pixels, layout = stored_image.pixels, stored_image.layout
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels in (1, 3) and layout in _ALPHA_AFTER:
        pixels, layout = pixels[:, :, :-1], _ALPHA_AFTER[layout]
    if pixels.shape[2] == channels:
        return np.ascontiguousarray(pixels)
    if channels == 3 and layout == "gray":
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and layout == "color":
        return rgb_to_luminance(pixels)
    present = stored_image.pixels.shape[2]
    pages = f" in {Count(stored_image.pages):page}" if stored_image.pages > 1 else ""
    raise DataError(
        f"{path} has {Count(present):channel}{pages} ({stored_image.layout}), but the recipe sets "
        f"data.channels={channels}; set data.channels={present}"
    )


def rgb_to_luminance(pixels: Array) -> Array:
    """Convert `(h, w, 3)` RGB to `(h, w, 1)` luma (ITU-R BT.601) of the same dtype."""
    if pixels.dtype == np.uint8:
        # 16-bit fixed point, so that the result is identical to that of Pillow.
        weights = np.asarray([19595, 38470, 7471], dtype=np.uint32)
        return np.asarray(((pixels @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None])
    gray = pixels @ np.asarray([0.299, 0.587, 0.114], dtype=np.float32)
    if pixels.dtype.kind != "f":
        gray = np.rint(gray)
    return np.asarray(gray.astype(pixels.dtype)[:, :, None])
