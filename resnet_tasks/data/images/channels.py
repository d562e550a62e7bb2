"""Decoded images, the images of Pillow, and the conversion of channels to a requested number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from resnet_tasks.data.images.image_damage import describe_damage
from resnet_tasks.data.images.image_files import DAMAGE, ORIENTATION, ROTATED
from resnet_tasks.data.images.size_limits import check_scans
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

Array = NDArray[Any]

ChannelLayout = Literal["gray", "gray and alpha", "color", "color and alpha", "bands"]
_ALPHA_AFTER: dict[str, ChannelLayout] = {"gray and alpha": "gray", "color and alpha": "color"}
DEEP_GRAY_MODES = {"I", "I;16", "I;16B", "I;16L", "F"}
"""Modes of Pillow with one channel of more than 8 bits."""
EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Modes of Pillow with 8 bits per channel, or less."""
LAYOUTS: dict[int, ChannelLayout] = {
    1: "gray",
    2: "gray and alpha",
    3: "color",
    4: "color and alpha",
}
"""Number of channels -> their meaning in formats that do not state it."""


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


def decode_pillow_image(image: Image.Image, name: str) -> StoredImage:
    """Return an image in memory, or an opened one, with its channels in their file's meaning.

    Args:
        image: Pillow image of any mode with 8 bits per channel, or with one deep channel.
        name: Name of the image in error messages.

    Raises:
        DataError: If its mode is not supported, its file is damaged, or it is rotated by EXIF.
    """
    try:
        check_scans(image)
        image.load()
        orientation = image.getexif().get(ORIENTATION, 1)
    except DAMAGE as error:
        raise DataError(f"{name} cannot be read: {describe_damage(error)}") from None
    if orientation in ROTATED:  # other values than 1 to 8 have no meaning
        raise DataError(
            f"{name} is stored rotated or mirrored (EXIF orientation {orientation}), so that "
            "predictions would not fit it; pass PIL.ImageOps.exif_transpose(image)"
        )
    if image.mode in EIGHT_BIT_MODES:
        return decode_8bit(image)
    if image.mode in DEEP_GRAY_MODES:
        return StoredImage(decode_deep_gray(image, image.mode), "gray")
    raise DataError(
        f"{name} has the Pillow mode {image.mode}; allowed: "
        f"{', '.join(sorted(EIGHT_BIT_MODES | DEEP_GRAY_MODES))}; convert it with "
        'image.convert("RGB")'
    )


def decode_8bit(image: Image.Image) -> StoredImage:
    """Return an image of one of the `EIGHT_BIT_MODES`, upright and without palette."""
    # `exif_transpose` would copy an image that is already upright.
    is_upright = image.getexif().get(ORIENTATION, 1) == 1
    upright = image if is_upright else ImageOps.exif_transpose(image)
    if upright.mode in ("P", "PA"):  # indices have no meaning without the palette
        has_alpha = upright.mode == "PA" or "transparency" in upright.info
        upright = upright.convert("RGBA" if has_alpha else "RGB")
    elif upright.mode not in ("L", "LA", "RGB", "RGBA"):
        upright = upright.convert("L" if upright.mode == "1" else "RGB")
    pixels = np.array(upright)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return StoredImage(pixels, LAYOUTS[pixels.shape[2]])


def decode_deep_gray(image: Image.Image, raw_mode: str) -> Array:
    """Return `(h, w, 1)` uint16, int32 or float32 pixels, upright."""
    array = np.asarray(ImageOps.exif_transpose(image))
    # Older releases of Pillow decode 16-bit PNGs to 32 bits.
    is_unsigned_16 = "16" in raw_mode and "S" not in raw_mode
    kind = np.uint16 if is_unsigned_16 else array.dtype.newbyteorder("=")
    return array.astype(kind)[:, :, None]
