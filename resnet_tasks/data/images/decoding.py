"""Decoding of image files of any bit depth and number of channels, without changing values.

Pillow decodes 8-bit images. tifffile decodes the other TIFFs (deep, float, many bands, many pages),
numpy decodes `.npy` arrays, and OpenCV decodes deep color PNGs from memory. Ordinary JPEGs are
decoded by simplejpeg, which is faster and returns the same values. Values are never rounded, and
channels are never dropped silently.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import simplejpeg
import tifffile
from PIL import Image, UnidentifiedImageError

from resnet_tasks.data.images.channels import (
    DEEP_GRAY_MODES,
    EIGHT_BIT_MODES,
    LAYOUTS,
    Array,
    ChannelLayout,
    StoredImage,
    convert_channels,
    decode_8bit,
    decode_deep_gray,
)
from resnet_tasks.data.images.image_damage import describe_damage
from resnet_tasks.data.images.image_files import (
    DAMAGE,
    NEEDED_CODECS,
    ORIENTATION,
    get_raw_mode,
    get_single_series,
    memmap_array,
    open_image,
    open_image_file,
    read_tiff_orientation,
    stream_kind,
    verify_png,
)
from resnet_tasks.data.images.image_formats import OversizedImageError
from resnet_tasks.data.images.size_limits import (
    check_scans,
    check_tiff_scans,
    refuse_large,
    refuse_large_tiles,
)
from resnet_tasks.data.images.tiff_inflation import DEFLATE, open_tiff, verify_deflate
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import read_regular_file
from resnet_tasks.number_formats import Count

MAX_PIXELS = 178_956_970
"""Maximum number of pixels, equal to Pillow's limit.

Larger images may be decompression bombs and are rejected before they are decoded.
"""

_JPEG_COLORS = {"L": "GRAY", "RGB": "RGB"}
_JPEG_DAMAGE = ("Premature end", "premature end", "bad Huffman code")
"""Warnings of libjpeg after which pixels are gray or wrong."""
_PILLOW_PHOTOMETRICS = {0, 1, 2, 3, 5, 6}  # gray, RGB, palette, CMYK, YCbCr
_PILLOW_COLORS = {2, 6}  # with 3 samples; Pillow would read only the first of 3 gray samples
_TIFFFILE_PHOTOMETRICS = {0, 1, 2}  # gray, RGB
_ANIMATED = {"GIF", "PNG", "WEBP", "AVIF"}
_LZW = 5
_ALPHA = {1, 2}  # TIFF's ExtraSamples: associated and unassociated alpha


def read_image(path: Path, channels: int = 3, *, max_pixels: int | None = None) -> Array:
    """Decode an image at full precision and apply its EXIF orientation.

    Args:
        path: Path of a PNG, JPEG, TIFF, BMP, WebP, ... with 8 or 16 bits per channel or floats, or
            of a `.npy` file with an array of shape `(height, width)` or `(height, width, C)`.
        channels: Requested number of channels. For 3, gray is repeated; for 1, color is converted
            to luminance; for both, an alpha channel is dropped. Bands and pages are neither mixed
            nor dropped.
        max_pixels: Maximum number of pixels; None: `MAX_PIXELS`.

    Returns:
        `(height, width, channels)` array with the dtype of the file (uint8, uint16, float32, ...),
        color in RGB order.

    Raises:
        DataError: If the file is missing, not an image, truncated or too large, or if its channels
            cannot be converted to the requested number.
    """
    return convert_channels(decode_image(path, max_pixels=max_pixels), channels, path)


def decode_image(path: Path, *, max_pixels: int | None = None) -> StoredImage:
    """Decode an image with all its channels.

    Args:
        path: Path of the image.
        max_pixels: Maximum number of pixels; None: `MAX_PIXELS`.

    Raises:
        DataError: If the file is missing, not an image, truncated or too large.
    """
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    try:
        with open_image_file(path) as stream:
            kind = stream_kind(stream)
            if kind == "numpy":
                return _decode_numpy(path, limit)
            if kind == "tiff":
                with open_tiff(path) as tiff:
                    refuse_large_tiles(path, tiff, limit)
                    check_tiff_scans(tiff)
                    if not _can_use_pillow(tiff):
                        return _decode_tiff(tiff, path, limit)
                    verify_deflate(tiff)
            return _decode_with_pillow(path, stream, limit)
    except DAMAGE as error:
        raise DataError(f"image {path} cannot be read: {describe_damage(error)}") from None


# --- numpy


def _decode_numpy(path: Path, limit: int) -> StoredImage:
    array = memmap_array(path)
    channels = array.shape[2] if array.ndim == 3 else 1
    refuse_large(path, (array.shape[0], array.shape[1]), channels, limit)
    return StoredImage(
        to_native_byte_order(array).reshape(*array.shape[:2], channels),
        "gray" if channels == 1 else "bands",
    )


def to_native_byte_order(array: Array) -> Array:
    """Return a copy of an array in memory, in the byte order of the machine."""
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


# --- TIFF


def _can_use_pillow(tiff: tifffile.TiffFile) -> bool:
    """Return whether a TIFF is a single image of up to 8 bits whose color space Pillow supports."""
    page = tiff.pages.first
    bits = page.bitspersample
    is_color = int(page.photometric) in _PILLOW_COLORS
    is_plain = page.samplesperpixel == (3 if is_color else 1) or (
        # CMYK, or a channel that the file marks as alpha
        int(page.photometric) == 5 or (page.samplesperpixel in (2, 4) and _has_alpha(page))
    )
    return (
        len(tiff.pages) == 1
        and is_plain
        and bits in (1, 2, 4, 8)
        and page.sampleformat == 1
        and int(page.photometric) in _PILLOW_PHOTOMETRICS
        and not _needs_checksums(page)
    )


def _needs_checksums(page: Any) -> bool:
    """Return whether tifffile decodes a deflated page as Pillow does.

    Pillow does not verify all checksums, so that it decodes some files with flipped bits.
    """
    return (
        int(page.compression) in DEFLATE
        and page.bitspersample == 8
        and int(page.photometric) in _TIFFFILE_PHOTOMETRICS
        and not page.extrasamples
        and page.fillorder == 1
    )


def _has_alpha(page: Any) -> bool:
    return len(page.extrasamples) == 1 and int(page.extrasamples[0]) in _ALPHA


def _decode_tiff(tiff: tifffile.TiffFile, path: Path, limit: int) -> StoredImage:
    series = get_single_series(tiff, path)
    page = series.keyframe
    axes, shape = str(series.axes), series.shape
    if "Y" not in axes or "X" not in axes:
        raise DataError(f"{path} contains no image: its axes {axes} of lengths {shape} lack X or Y")
    height, width = shape[axes.index("Y")], shape[axes.index("X")]
    refuse_large(path, (height, width), math.prod(shape) // (height * width), limit)
    try:
        array = series.asarray()
    except ValueError as error:
        if NEEDED_CODECS not in str(error):
            raise
        return _decode_without_codec(tiff, path)
    moved = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (0, 1))
    pixels = to_native_byte_order(moved.reshape(height, width, -1))
    if int(page.photometric) == 0 and pixels.dtype.kind == "u":  # white is zero
        pixels = np.iinfo(pixels.dtype).max - pixels
    pages = pixels.shape[2] // page.samplesperpixel
    return StoredImage(
        _apply_orientation(pixels, read_tiff_orientation(tiff)), get_tiff_layout(page, pages), pages
    )


def get_tiff_layout(page: Any, pages: int) -> ChannelLayout:
    """Return the channel layout of a TIFF.

    Args:
        page: Page of the TIFF; all pages have the same format.
        pages: Number of pages.
    """
    samples, is_color = page.samplesperpixel, int(page.photometric) == 2
    if pages != 1:
        return "bands"
    if samples == 1:
        return "gray"
    if is_color and samples == 3:
        return "color"
    if is_color and samples == 4 and (_has_alpha(page) or not page.extrasamples):
        return "color and alpha"
    if not is_color and samples == 2 and _has_alpha(page):
        return "gray and alpha"
    return "bands"


def _decode_without_codec(tiff: tifffile.TiffFile, path: Path) -> StoredImage:
    """Decode a TIFF with OpenCV whose compression tifffile cannot decode without imagecodecs.

    Raises:
        DataError: If OpenCV cannot decode it either, or changes its shape or dtype.
        OSError: If it is damaged.
    """
    page = tiff.pages.first
    plain = (
        len(tiff.pages) == 1
        and read_tiff_orientation(tiff) == 1
        and page.samplesperpixel in (1, 3, 4)
    )
    array = _decode_with_opencv(read_regular_file(path)) if plain else None
    if plain and array is None and int(page.compression) == _LZW:  # which OpenCV supports
        raise OSError("the file is truncated or damaged: its LZW data cannot be decoded")
    expected = (page.imagelength, page.imagewidth, page.samplesperpixel)
    if array is None or array.shape != expected or array.dtype != page.dtype:
        codec = getattr(page.compression, "name", page.compression)
        raise DataError(
            f"{path} is a TIFF of {Count(page.samplesperpixel):channel} in "
            f"{Count(len(tiff.pages)):page} "
            f"compressed with {codec}, which needs imagecodecs: `pip install imagecodecs`, or "
            "store it uncompressed or with deflate"
        )
    return StoredImage(array, get_tiff_layout(page, 1))


# --- Pillow and OpenCV


def _decode_with_pillow(path: Path, stream: IO[bytes], limit: int) -> StoredImage:
    try:
        with open_image(stream, limit) as image:
            refuse_large(path, (image.height, image.width), 1, limit)
            _check_not_animated(path, image)
            return _decode_opened(path, image, stream)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image that can be read: {error}") from None
    except OversizedImageError as error:
        refuse_large(path, error.size, 1, limit)
        raise
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more than the limit of {limit:,} pixels; cut it into several files, or "
            "raise data.max_pixels (predict: --max-pixels)"
        ) from None


def _decode_opened(path: Path, image: Image.Image, stream: IO[bytes]) -> StoredImage:
    raw_mode = get_raw_mode(image)
    orientation = image.getexif().get(ORIENTATION, 1)
    check_scans(image, stream)
    jpeg = _decode_jpeg(image)
    if jpeg is not None:
        return StoredImage(_apply_orientation(jpeg, orientation), LAYOUTS[jpeg.shape[2]])
    verify_png(image, stream)
    # Loading all pixels detects truncation, which OpenCV would silently fill with gray.
    image.load()
    if image.mode in EIGHT_BIT_MODES and "16" not in raw_mode:
        return decode_8bit(image)
    if image.mode in DEEP_GRAY_MODES:
        return StoredImage(decode_deep_gray(image, raw_mode), "gray")
    stream.seek(0)
    array = _decode_with_opencv(stream.read())
    if array is None:
        if image.format == "PNG":
            raise OSError("the file is truncated or damaged: its end is missing or invalid")
        raise DataError(
            f"{path} is a {image.format} image of mode {image.mode}, which is not supported; store "
            "it as PNG of 8 or 16 bits, or as TIFF"
        )
    if raw_mode.startswith("LA"):  # OpenCV converts gray with alpha to color with alpha
        array = array[:, :, [0, 3]]
    return StoredImage(_apply_orientation(array, orientation), LAYOUTS[array.shape[2]])


def _check_not_animated(path: Path, image: Image.Image) -> None:
    # MPO is not in the list: the second image of such photographs is a preview, not a frame.
    if image.format in _ANIMATED and getattr(image, "is_animated", False):
        # Pillow reads a whole GIF to count its images.
        frames = "several" if image.format == "GIF" else getattr(image, "n_frames", "several")
        raise DataError(
            f"{path} is an animation of {frames} images; store the intended image in a separate "
            "file"
        )


def _decode_jpeg(image: Image.Image) -> Array | None:
    """Return the `(h, w, C)` pixels of an ordinary JPEG, without applying its orientation.

    None if the image is not a JPEG, has an unusual color space, or has a fault; Pillow then decodes
    it or reports the fault.

    Raises:
        OSError: If pixels are missing or damaged, which Pillow would fill with gray.
    """
    colors = _JPEG_COLORS.get(image.mode) if image.format == "JPEG" else None
    if colors is None:
        return None
    stream: IO[bytes] = image.fp  # type: ignore[attr-defined]
    stream.seek(0)
    try:
        array = simplejpeg.decode_jpeg(stream.read(), colors, strict=True)
    except ValueError as error:  # strict: also raised for warnings, such as extraneous bytes
        if any(fault in str(error) for fault in _JPEG_DAMAGE):
            raise OSError(str(error)) from None
        return None
    return np.asarray(array) if array.shape[:2] == (image.height, image.width) else None


class _OpenCVLog:
    """Log level of OpenCV, which all threads share, so that the last one to finish restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_muted = 0
        self._level = 0

    @contextmanager
    def mute(self) -> Iterator[None]:
        """Hide lines about unknown tags and about damage, which the caller reports."""
        with self._lock:
            if not self._num_muted:
                silent = cv2.utils.logging.LOG_LEVEL_SILENT
                self._level = cv2.utils.logging.setLogLevel(silent)
            self._num_muted += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_muted -= 1
                if not self._num_muted:
                    cv2.utils.logging.setLogLevel(self._level)


_OPENCV_LOG = _OpenCVLog()


def _decode_with_opencv(content: bytes) -> Array | None:
    """Decode the bytes of a file to `(h, w, C)`, without changing its dtype or orientation."""
    try:
        with _OPENCV_LOG.mute():
            array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        array = None
    if array is None:
        return None
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] >= 3:  # OpenCV's order is BGR(A)
        array = np.concatenate((array[:, :, 2::-1], array[:, :, 3:]), axis=2)
    return np.asarray(array)


def _apply_orientation(array: Array, orientation: int) -> Array:
    """Rotate and flip a `(h, w, C)` array according to its EXIF orientation (1 to 8)."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array
