"""Images as 8-bit RGB canvases for drawings, and image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.intensity import resize_pixels
from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError
from resnet_tasks.visualization.drawing import as_rgb8

MAX_DRAWING_SIDE = 4096
"""Maximum side length of a drawing, pixels; larger images are reduced before drawing."""


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
    try:
        if not is_encoded:
            raise OSError(f"{pixels.dtype} of shape {pixels.shape} cannot be encoded")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path} cannot be written ({reason}); is the disk full?") from None


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
