"""Reading of image sizes, with errors that name the file, and writing of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray
from PIL import Image

from data_tools.reading.source_folder import is_file
from resnet_tasks.data.images.image_damage import describe_read_error
from resnet_tasks.data.images.image_files import (
    DAMAGE,
    explain_swapped_size,
    read_image_size,
)
from resnet_tasks.errors import DataError

READ_ERRORS = (Image.DecompressionBombError, *DAMAGE)
"""Exceptions that Pillow raises for files that are damaged, too large or not images."""


def measure_image_size(image: Path) -> tuple[int, int]:
    """Return the (height, width) of an image file with its EXIF orientation applied.

    Raises:
        DataError: If the file is missing or is not an image.
    """
    if not is_file(image):
        raise DataError(f"the image {image} is missing; add it or remove it from the list")
    try:
        return read_image_size(image)
    except (DataError, *READ_ERRORS) as error:
        reason = describe_read_error(error, image)
        raise DataError(f"the image {image} cannot be read ({reason}); replace it") from error


def measure_stated_size(
    image: Path, stated: tuple[int, int] | None, statement: str, consequence: str = ""
) -> tuple[int, int]:
    """Return the (height, width) of an image file after comparing it with the size stated for it.

    Args:
        image: Path of the image.
        stated: Stated (height, width); None if none is stated.
        statement: Beginning of the error message, followed by the stated size.
        consequence: Consequence of the difference, for the error message.

    Raises:
        DataError: If the file is missing, is not an image, or has another size.
    """
    size = measure_image_size(image)
    if stated not in (None, size):
        remedy = stated and explain_swapped_size(image, size, stated)
        raise DataError(
            f"{statement} {stated} (height, width), but {image} has {size}; {consequence}"
            f"{': ' if consequence else ''}{remedy or 'put the original image there'}"
        )
    return size


def write_image(file: Path, pixels: NDArray[Any], *options: int) -> None:
    """Write a gray or RGB image in the format of the file's suffix.

    Args:
        file: Path to write to; missing folders are created.
        pixels: (height, width) or (height, width, 3) RGB, of a type that the format supports.
        *options: Encoder flags of `cv2.imencode`.

    Raises:
        DataError: If OpenCV cannot encode the pixels, or the file cannot be written.
    """
    opencv_pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    is_encoded, encoded = cv2.imencode(file.suffix, opencv_pixels, list(options))
    if not is_encoded:
        raise DataError(
            f"the image {file} cannot be written from {pixels.dtype} pixels of shape {pixels.shape}"
        )
    with convert_write_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded.tobytes())  # cv2.imwrite would not raise when the disk is full


@contextmanager
def convert_write_errors(file: Path) -> Iterator[None]:
    """Raise a DataError that names the file for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"the image {file} cannot be written ({error.strerror or error}); free space on that "
            "disk, or make sure that its folder is writable"
        ) from None
