"""Images as 8-bit RGB canvases for drawings, and image files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.images.intensity import resize_pixels
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError
from resnet_tasks.visualization.colors import BACKGROUND_COLOR, Color
from resnet_tasks.visualization.drawing import as_rgb8

MAX_DRAWING_SIDE = 4096
"""Maximum side length of a drawing, pixels; larger images are reduced before drawing."""
_FAST = 1
"""Compression level of zlib for label images; level 6 takes twice as long."""


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an RGB image.

    Args:
        path: Path of the image file; its suffix selects the format.
        image: `(height, width, 3)` uint8 RGB.

    Raises:
        DataError: If the file cannot be written.
    """
    encode_and_write(path, np.ascontiguousarray(image[:, :, ::-1]), path.suffix)


def encode_and_write(path: Path, pixels: NDArray[Any], suffix: str = ".png") -> None:
    """Encode an image in memory and write it.

    `cv2.imwrite` is avoided because it crashes on file names that are not UTF-8.

    Args:
        path: Path of the image file.
        pixels: Gray or BGR image.
        suffix: File name suffix that selects the format.

    Raises:
        DataError: If the file cannot be written.
    """
    is_encoded, encoded = cv2.imencode(suffix, pixels)
    if not is_encoded:
        raise DataError(
            f"{path} cannot be written ({pixels.dtype} of shape {pixels.shape} cannot be encoded)"
        )
    _write_bytes(path, encoded.tobytes())


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be written ({reason}); is the disk full?") from None


def encode_palette_png(
    values: NDArray[np.uint8], palette: Sequence[Color], **options: Any
) -> bytes:
    """Encode a map of palette indices as a PNG that viewers show in color.

    Args:
        values: `(height, width)` uint8 indices into the palette.
        palette: RGB color of every index, at most 256 colors.
        options: Options of Pillow's PNG writer.
    """
    image = Image.fromarray(values)  # shares the memory of contiguous values
    image.putpalette(bytes(channel for color in palette for channel in color))
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def write_label_image(path: Path, values: NDArray[Any], colors: Mapping[int, Color]) -> None:
    """Write a label image as a PNG that holds the values exactly.

    Values of 8 bits become indices of a palette, so that viewers show the classes in their colors.
    A PNG of 16 bits cannot have a palette; viewers show it in gray.

    Args:
        path: Path of the PNG.
        values: `(height, width)` integers.
        colors: Value -> color; other values are black.

    Raises:
        DataError: If the file cannot be written.
    """
    if values.dtype != np.uint8:
        encode_and_write(path, values)
        return
    palette = [colors.get(value, BACKGROUND_COLOR) for value in range(256)]
    # With all 256 entries, each value takes 8 bits, which every reader supports.
    _write_bytes(path, encode_palette_png(values, palette, compress_level=_FAST))


def to_canvas(image: NDArray[Any], preparation: Preparation) -> NDArray[np.uint8]:
    """Convert a stored image to 8-bit RGB for drawing, using the model's intensity step."""
    return as_rgb8(preparation.intensity(image))


def make_overview(image: PreparedImage, longest: int = MAX_DRAWING_SIDE) -> NDArray[np.uint8]:
    """Convert an image to 8-bit RGB for drawing, reduced by area if it is larger than `longest`.

    The image is read in bands of rows, so that a large image is never decoded as a whole.

    Args:
        image: Image to convert; read through its intensity step.
        longest: Maximum side length of the result, pixels.

    Returns:
        `(h', w', 3)` uint8 RGB.
    """
    height, width = image.original_size
    factor = -(-max(height, width) // longest)
    rows = height if factor == 1 else factor * 64
    bands = []
    for top in range(0, height, rows):
        tile = Tile(top, 0, min(rows, height - top), width)
        values = image.read_original_values(tile)
        bands.append(
            as_rgb8(resize_pixels(values, (-(-tile.height // factor), -(-width // factor))))
        )
    return np.concatenate(bands) if len(bands) > 1 else bands[0]
