"""Reading of images whose pixels are class ids, exactly as they are stored.

Training, `data check`, `data stats`, evaluation and conversion all read label maps here, so that
they accept and reject the same files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.images.find_images import find_file
from resnet_tasks.data.images.image_damage import describe_damage
from resnet_tasks.data.images.image_files import (
    DAMAGE,
    NEEDED_CODECS,
    detect_file_kind,
    get_raw_mode,
    open_image,
    verify_png,
)
from resnet_tasks.data.images.lossy_formats import find_lossy_format
from resnet_tasks.data.images.tiff_inflation import DEFLATE, open_tiff, verify_deflate
from resnet_tasks.errors import DataError

ROUNDING = 1e-3
"""Maximum distance of a stored float from the whole number that it represents."""
MAX_ID = 65535
"""Largest class id that a label map can hold."""
UNREADABLE = (Image.DecompressionBombError, *DAMAGE)
"""Exceptions that readers raise for a file that is damaged, too large or not an image."""

_SHOWN_DIGITS = 7
# Pillow reads int8 as uint8 and uint32 as int32, and does not support the other types.
_PILLOW_TIFF_TYPES = ("uint8", "uint16", "int16", "int32", "float32", "bool")
# Types of TIFFs that declare 0 as white, which Pillow reads in both byte orders.
_PILLOW_INVERTED_TYPES = ("uint8", "bool")
_WHITE_IS_ZERO = 0
# Pillow inverts gray where the file declares 0 as white (I), and stretches 2 and 4 bits to 255.
_CHANGED_GRAY = re.compile(r"[1L];(?P<bits>[24]?)(?P<inverted>I?)R?")
_STRETCH = {"": 1, "2": 85, "4": 17}


def read_label_map(path: Path, max_pixels: int | None = None) -> NDArray[np.integer[Any]]:
    """Read the stored values of a label map; for a palette image the indices, not the colors.

    Args:
        path: Path of a single-channel or palette image in a lossless format. Floats within
            `ROUNDING` of a whole number are rounded.
        max_pixels: Maximum number of pixels; None: twice Pillow's limit.

    Returns:
        `(height, width)` stored values with the dtype of the file; floats as uint8 or uint16.

    Raises:
        DataError: If the file is missing, unreadable or lossy, holds several images or channels,
            or a value is not a whole number from 0 to `MAX_ID`.
    """
    if find_file(path) is None:
        raise DataError(f"label map {path} cannot be read: the file is missing")
    try:
        require_lossless(path, "label map")
        if detect_file_kind(path) == "tiff":
            values = read_tiff_values(path, max_pixels)
        else:
            with open_image(path, max_pixels) as image:
                require_single_image(path, "label map", _count_images(image))
                verify_png(image)
                values = _load_stored_values(image)
                if image.format == "WEBP":
                    values = _merge_equal_channels(values)
    except UNREADABLE as error:
        text = describe_damage(error)
        raise DataError(f"label map {path} cannot be read: {text}; replace the file") from None
    if values.ndim != 2:
        raise DataError(_several_channels(path, values.shape[2], f" (shape {values.shape})"))
    return round_ids(values, path)


def require_lossless(path: Path, role: str) -> None:
    """Reject a file whose format changes pixel values.

    Args:
        path: Path of the file.
        role: Role of the file for the message, such as "label map".

    Raises:
        DataError: If the format is lossy.
        OSError: If the file cannot be read.
    """
    lossy_format = find_lossy_format(path)
    if lossy_format is not None:
        raise DataError(
            f"{role} {path} is stored as {lossy_format}, which changes pixel values; export it "
            "again from the original annotation as PNG (converting this file would keep the "
            "changed values)"
        )


def require_single_image(path: Path, role: str, num_images: int | str) -> None:
    """Reject a file with several pages or frames, of which only one would be used.

    Args:
        path: Path of the file, for the error message.
        role: Role of the file for the error message, such as "label map".
        num_images: Number of pages or frames in the file, or `several`.

    Raises:
        DataError: If `num_images` is not 1.
    """
    if num_images != 1:
        raise DataError(
            f"{role} {path} holds {num_images} images (pages or frames), but must hold one; store "
            "the intended image in a separate file"
        )


def _count_images(image: Image.Image) -> int | str:
    if image.format == "GIF":  # Pillow reads a whole GIF to count its images
        return "several" if getattr(image, "is_animated", False) else 1
    return int(getattr(image, "n_frames", 1))


def round_ids(
    values: NDArray[Any], path: Path, role: str = "label map"
) -> NDArray[np.integer[Any]]:
    """Return stored values as whole numbers; integers are returned as they are.

    Args:
        values: `(height, width)` or `(height, width, channels)` of any real dtype.
        path: Path of the file, for the error message.
        role: Role of the file for the error message, such as "label map".

    Raises:
        DataError: If a float is not finite, not within `ROUNDING` of a whole number, or outside
            0 to `MAX_ID`; the message names the value and its position.
    """
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind != "f":
        raise DataError(f"{role} {path} holds {values.dtype}; its values must be whole numbers")
    finite = np.isfinite(values)
    rounded = np.rint(np.where(finite, values, -1.0).astype(np.float64))
    # The margin accepts 1.001 as float32, which is 1.0010000467.
    is_near = np.abs(rounded - np.where(finite, values, -1.0)) <= ROUNDING * (1 + 1e-4)
    is_id = finite & is_near & (rounded >= 0) & (rounded <= MAX_ID)
    if not is_id.all():
        y, x, *channel = np.argwhere(~is_id)[0]
        value = values[(y, x, *channel)]
        raise DataError(
            f"{role} {path} holds {value:.{_SHOWN_DIGITS}g} at x {x}, y {y} ({int((~is_id).sum())} "
            f"such pixels); its values must be whole numbers from 0 to {MAX_ID} (floats may "
            f"deviate by {ROUNDING:g}): save the file as integers, and resize it without "
            "interpolation"
        )
    largest = rounded.max(initial=0)
    return np.asarray(rounded.astype(np.uint8 if largest <= 255 else np.uint16))


def _merge_equal_channels(values: NDArray[Any]) -> NDArray[Any]:
    """Return one channel of a label map stored as WebP, which stores gray as 3 equal channels."""
    is_gray = values.ndim == 3 and (values[..., :3] == values[..., :1]).all()
    is_opaque = is_gray and (values[..., 3:] == 255).all()
    return values[..., 0] if is_opaque else values


def _several_channels(path: Path, channels: int, shape: str = "") -> str:
    return (
        f"label map {path} must hold one channel of whole numbers (class ids), got {channels} "
        f"channels{shape}; convert colors with `resnet-tasks data convert color-maps`"
    )


def read_tiff_values(path: Path, max_pixels: int | None = None) -> NDArray[Any]:
    """Read the stored values of a TIFF; they are not inverted if it declares 0 as white.

    Overviews and transparency masks are skipped.

    Args:
        path: Path of the file.
        max_pixels: Maximum number of pixels; None: twice Pillow's limit.

    Returns:
        `(height, width)` values.

    Raises:
        DataError: If the file holds several images or channels.
        Exception: Any of `UNREADABLE` if it is damaged or too large.
    """
    with open_tiff(path) as tiff:
        index, page = find_only_page(tiff, path, "label map")
        if page.samplesperpixel != 1:
            raise DataError(_several_channels(path, page.samplesperpixel))
        is_inverted = int(page.photometric) == _WHITE_IS_ZERO
        pillow_types = _PILLOW_INVERTED_TYPES if is_inverted else _PILLOW_TIFF_TYPES
        if str(page.dtype) not in pillow_types or _is_deflated(page):
            limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
            if limit is not None and page.imagelength * page.imagewidth > 2 * limit:
                raise Image.DecompressionBombError(
                    f"{page.imagewidth} x {page.imagelength} pixels exceed the limit of {limit:,}"
                )
            try:
                return np.asarray(page.asarray()).reshape(page.imagelength, page.imagewidth)
            except ValueError as error:
                can_use_pillow = str(page.dtype) in (*pillow_types, "uint16")
                if NEEDED_CODECS not in str(error) or not can_use_pillow:
                    raise
        verify_deflate(tiff)
    with open_image(path, max_pixels) as image:
        image.seek(index)
        return _load_stored_values(image)


def _is_deflated(page: Any) -> bool:
    """Return whether tifffile decodes a page with checksums, which Pillow does not verify."""
    has_whole_bytes = page.bitspersample in (8, 16, 32) and page.fillorder == 1
    return int(page.compression) in DEFLATE and has_whole_bytes


def _load_stored_values(image: Image.Image) -> NDArray[Any]:
    """Decode an opened image and undo the changes that Pillow makes for display."""
    raw_mode = get_raw_mode(image)
    image.load()  # numpy would hide decoding errors in an array without pixels
    values = np.asarray(image)
    change = _CHANGED_GRAY.fullmatch(raw_mode)
    if change is None:
        return values
    if values.dtype == np.bool_:
        return ~values if change["inverted"] else values
    values = 255 - values if change["inverted"] else values
    return np.asarray(values // np.uint8(_STRETCH[change["bits"]]))


def find_only_page(tiff: Any, path: Path, role: str) -> tuple[int, Any]:
    """Return the index and the page of the only full-size image of an open TIFF.

    Args:
        tiff: Open TIFF.
        path: Path of the file, for the error message.
        role: Role of the file for the error message, such as "label map".

    Raises:
        DataError: If there are several full-size images.
        OSError: If there is none.
    """
    full = [
        (index, page.aspage())
        for index, page in enumerate(tiff.pages)
        if not int(page.aspage().subfiletype) & 0b101
    ]
    if not full:
        raise OSError("it contains no image")
    require_single_image(path, role, len(full))
    index, page = full[0]
    # ImageJ writes a whole stack after the directory entry of its first image.
    stack_size = max(
        (int(np.prod(series.shape)) for series in tiff.series if index == 0), default=0
    )
    per_image = page.imagelength * page.imagewidth * page.samplesperpixel
    require_single_image(path, role, max(stack_size // max(per_image, 1), 1))
    return index, page
