"""Image files, opened and measured, but not decoded into pixels."""

from __future__ import annotations

import lzma
import os
import struct
import tokenize
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from resnet_tasks.data.images.declared_sizes import WORTH_CHECKING
from resnet_tasks.data.images.image_formats import (
    NUMPY,
    TIFF,
    check_declared_size,
    identify_format,
    read_start,
    require_format,
)
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.errors import DataError
from resnet_tasks.files.regular_files import open_regular_file

if TYPE_CHECKING:
    import tifffile

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy"})
"""How image files end; a file named by itself may end as it likes."""
ORIENTATION = 274
"""EXIF's and TIFF's tag."""
TURNED = (5, 6, 7, 8)
"""Orientations that turn an image by 90 degrees."""
NEEDED_CODECS = "imagecodecs"
"""What tifffile names where it cannot decode a compression by itself."""
DAMAGE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zlib.error,
    lzma.LZMAError,
)
"""What readers raise on files that are damaged.

tifffile's own error is a `ValueError`, those of imagecodecs are `RuntimeError`s.
"""
MOST_WIDE = 1 << 25
"""Pixels of a line that Pillow decodes in every mode; beyond, it says that memory is short."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of a PNG's texts that may hold an orientation."""


@contextmanager
def open_image(path: Path | IO[bytes], max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image without decoding it, and without a warning about its size.

    Only regular files are opened, and only formats that `image_formats` allows, by content.

    Args:
        path: Path of the image, or its bytes.
        max_pixels: Most pixels allowed; None: twice Pillow's own limit, as Pillow does.

    Raises:
        DecompressionBombError: If the image is larger.
        UnidentifiedImageError: If its format is not allowed.
        OSError: If its lines are longer than `MOST_WIDE`, its header is damaged, or it is no
            regular file.
    """
    previous_limit = Image.MAX_IMAGE_PIXELS
    with ExitStack() as stack:
        stream = stack.enter_context(open_regular_file(path)) if isinstance(path, Path) else path
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            # Some formats are held to it when they are decoded, not when they are opened.
            Image.MAX_IMAGE_PIXELS = previous_limit if max_pixels is None else max_pixels
            with _open_identified(stream, max_pixels) as image:
                if image.width > MOST_WIDE:
                    raise OSError(
                        f"its lines of {image.width:,} pixels are longer than {MOST_WIDE:,}"
                    )
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = previous_limit


def _open_identified(stream: IO[bytes], max_pixels: int | None) -> Image.Image:
    """Open a stream with the one decoder of its format."""
    start = read_start(stream)
    kind = require_format(start)
    if kind == NUMPY:
        raise UnidentifiedImageError("it is an array of numpy, where an image file is expected")
    doubled = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    check_declared_size(stream, start, kind, doubled if max_pixels is None else max_pixels)
    try:
        image = Image.open(stream, formats=(kind,))
        if kind == TIFF and image.width * image.height > WORTH_CHECKING:
            place = stream.tell()
            stream.seek(0)
            open_tiff(stream).close()
            stream.seek(place)
        return image
    except UnidentifiedImageError:
        raise OSError(f"its {kind} header is damaged") from None
    except KeyError:
        raise OSError(f"this build of Pillow does not decode {kind}; convert it to PNG") from None


def get_raw_mode(image: Image.Image) -> str:
    """Return Pillow's name of the layout of stored pixels; "" where there is none.

    Decoding discards it.
    """
    tiles = getattr(image, "tile", None)
    # Numbers may follow the name: lengths and positions, or the name of a predictor.
    options = tiles[0][3] if tiles else ""
    return str(options[0] if isinstance(options, tuple) and options else options)


def try_read_image_size(path: Path, *, decode: bool = False) -> tuple[int, int] | None:
    """(height, width) of an image as people see it; None where it cannot be read.

    Args:
        path: Of the image.
        decode: Decode it whole, which finds damage behind the header.
    """
    try:
        return read_image_size(path, decode=decode)
    except (DataError, Image.DecompressionBombError, *DAMAGE):
        return None


def read_image_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """(height, width) of an image as people see it.

    Args:
        path: Of the image.
        decode: As for `stored_size`.

    Raises:
        DataError: If it is not there or no image.
        Exception: Any of `DAMAGE`, or Pillow's `DecompressionBombError`, where it cannot be read.
    """
    kind = detect_file_kind(path)
    if kind == "numpy":
        array = memmap_array(path)  # its length is checked
        return (int(array.shape[0]), int(array.shape[1]))
    if kind == "tiff":
        return _read_tiff_size(path, decode)
    with open_image(path) as image:
        if decode:
            image.load()
        width, height = image.size
        is_turned = _read_pillow_orientation(image, path) in TURNED
    return (width, height) if is_turned else (height, width)


def _read_tiff_size(path: Path, decode: bool) -> tuple[int, int]:
    with open_tiff(path) as tiff:
        series = get_single_series(tiff, path)
        size = (int(series.sizes["height"]), int(series.sizes["width"]))
        is_turned = read_tiff_orientation(tiff) in TURNED
        if decode:
            try:
                series.asarray()
            except ValueError as error:
                if NEEDED_CODECS not in str(error):
                    raise
                with open_image(path) as image:
                    image.load()
    return size[::-1] if is_turned else size


def detect_file_kind(path: Path) -> Literal["numpy", "tiff", "other"]:
    """Return how an image file starts, whatever its name.

    Raises:
        DataError: If it cannot be opened or read, or is no regular file.
    """
    with open_image_file(path) as stream:
        try:
            return stream_kind(stream)
        except OSError as error:  # a bad disk, say, or a file of /proc
            raise DataError(f"image {path} cannot be read: {error}") from None


def stream_kind(stream: IO[bytes]) -> Literal["numpy", "tiff", "other"]:
    """Return how an opened image file starts, and rewind it."""
    kind = identify_format(read_start(stream))
    if kind == NUMPY:
        return "numpy"
    return "tiff" if kind == TIFF else "other"


def open_image_file(path: Path) -> BinaryIO:
    """Open an image file for reading.

    Raises:
        DataError: If it cannot be opened, or is no regular file.
    """
    try:
        return open_regular_file(path)
    except FileNotFoundError:
        raise DataError(f"image {path} does not exist") from None
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error}") from None


def memmap_array(path: Path) -> NDArray[Any]:
    """The array of a file that `numpy.save` wrote, not yet read.

    Raises:
        DataError: If it is no image.
    """
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or 0 in array.shape:
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}; an image is numbers of shape "
            "(height, width) or (height, width, channels)"
        )
    return array


def get_single_series(tiff: tifffile.TiffFile, path: Path) -> Any:
    """The one full image of a file; thumbnails, overviews and transparency masks are no others.

    Raises:
        DataError: If there are several.
    """
    candidates = [series for series in tiff.series if not int(series.keyframe.subfiletype) & 0b101]
    if len(candidates) != 1:
        shapes = ", ".join(f"{series.shape} {series.dtype}" for series in candidates[:3])
        raise DataError(
            f"{path} holds {len(candidates)} images of different kinds ({shapes}); store each in "
            "a "
            "file of its own"
        )
    return candidates[0]


def read_tiff_orientation(tiff: tifffile.TiffFile) -> int:
    """EXIF's orientation, 1..8."""
    tag = tiff.pages.first.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def read_orientation(path: Path) -> int:
    """EXIF's orientation of an image, 1..8; 1 where it has none or cannot be read."""
    try:
        kind = detect_file_kind(path)
        if kind == "numpy":
            return 1
        if kind == "tiff":
            with open_tiff(path) as tiff:
                return read_tiff_orientation(tiff)
        with open_image(path) as image:
            exif_orientation = _read_pillow_orientation(image, path)
    except (DataError, Image.DecompressionBombError, *DAMAGE):
        return 1
    return exif_orientation if 1 <= exif_orientation <= 8 else 1


def _read_pillow_orientation(image: Image.Image, path: Path) -> int:
    """What EXIF or XMP says, as Pillow's `getexif` gives it.

    Pillow decodes a whole PNG for what may follow its pixels; here its chunks are looked at.

    Raises:
        OSError: If a PNG ends before its last chunk.
    """
    if image.format != "PNG" or "exif" in image.info:
        return int(image.getexif().get(ORIENTATION, 1))
    late, needs_pillow = _read_late_png_chunks(path)
    if needs_pillow:
        return int(image.getexif().get(ORIENTATION, 1))
    if late is not None:
        image.info["exif"] = b"Exif\0\0" + late
    # Not the method of PNGs, which decodes.
    return int(Image.Image.getexif(image).get(ORIENTATION, 1))


def _read_late_png_chunks(path: Path) -> tuple[bytes | None, bool]:
    """EXIF behind the pixels of a PNG, and whether a text there may hold an orientation.

    Raises:
        OSError: If the file ends before its last chunk.
    """
    exif, has_text, has_pixels = None, False, False
    with open_regular_file(path) as file:
        file.seek(len(_PNG_START))
        while len(header := file.read(8)) == 8:
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            if kind == b"IEND":
                return exif, has_text
            has_pixels = has_pixels or kind == b"IDAT"
            used = 0
            if has_pixels and kind == b"eXIf":
                exif = file.read(length)
                used = len(exif)
            elif has_pixels and kind in _PNG_TEXTS:
                keyword = file.read(min(length, 80)).partition(b"\0")[0]
                used = min(length, 80)
                has_text = has_text or keyword in _ORIENTING_TEXTS
            file.seek(length - used + 4, os.SEEK_CUR)
    raise OSError("the file is truncated")
