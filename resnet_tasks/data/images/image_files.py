"""Opening of image files, and reading of their size and orientation without decoding pixels."""

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
from resnet_tasks.data.images.size_limits import check_scans, check_tiff_scans
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.errors import DataError
from resnet_tasks.files.foreign_files import describe_address
from resnet_tasks.files.regular_files import open_regular_file

if TYPE_CHECKING:
    import tifffile

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy"})
"""Suffixes of image files in folders; a file that is given by its path may have any suffix."""
ORIENTATION = 274
"""Number of the orientation tag in EXIF and TIFF."""
ROTATED = (2, 3, 4, 5, 6, 7, 8)
"""EXIF orientations other than upright."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
NEEDED_CODECS = "imagecodecs"
"""Package that tifffile names in the error for a compression it cannot decode without it."""
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
"""Exceptions that image readers raise for damaged files.

The errors of tifffile are `ValueError`s, those of imagecodecs are `RuntimeError`s.
"""
MAX_WIDTH = 1 << 25
"""Maximum width in pixels: for wider images Pillow reports a misleading lack of memory."""
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK = 1 << 20
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Keywords of PNG text chunks that may contain an orientation."""


@contextmanager
def open_image(path: Path | IO[bytes], max_pixels: int | None = None) -> Iterator[Image.Image]:
    """Open an image without decoding it, and without Pillow's warnings about its size and metadata.

    Only regular files in the formats that `image_formats` allows are opened. The format is
    recognized by content.

    Args:
        path: Path of the image, or its bytes as a stream.
        max_pixels: Maximum number of pixels; None: twice Pillow's limit, as in Pillow.

    Raises:
        DecompressionBombError: If the image has more pixels.
        UnidentifiedImageError: If its format is not allowed.
        OSError: If it is wider than `MAX_WIDTH`, its header is damaged, or it is not a regular
            file.
    """
    previous_limit = Image.MAX_IMAGE_PIXELS
    with ExitStack() as stack:
        stream = stack.enter_context(open_regular_file(path)) if isinstance(path, Path) else path
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Pillow warns of invalid metadata that it skips, each time that a file is opened.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        try:
            # Some decoders check this limit on decoding, not on opening.
            Image.MAX_IMAGE_PIXELS = previous_limit if max_pixels is None else max_pixels
            with _open_identified(stream, max_pixels) as image:
                if image.width > MAX_WIDTH:
                    raise OSError(
                        f"its width of {image.width:,} pixels exceeds the limit of {MAX_WIDTH:,}"
                    )
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = previous_limit


def _open_identified(stream: IO[bytes], max_pixels: int | None) -> Image.Image:
    """Open a stream with the decoder of its format only."""
    start = read_start(stream)
    kind = require_format(stream, start)
    if kind == NUMPY:
        raise UnidentifiedImageError("it is a NumPy array, but an image file is expected")
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
    """Return Pillow's name of the layout of the stored pixels, or "" if there is none.

    It is available only before the image is decoded.
    """
    tiles = getattr(image, "tile", None)
    # The options are the name alone, or a tuple that begins with the name.
    options = tiles[0][3] if tiles else ""
    return str(options[0] if isinstance(options, tuple) and options else options)


def try_read_image_size(path: Path, *, decode: bool = False) -> tuple[int, int] | None:
    """Return the (height, width) of the upright image, or None if it cannot be read.

    Args:
        path: Path of the image.
        decode: Whether to decode all pixels, which detects damage after the header.
    """
    try:
        return read_image_size(path, decode=decode)
    except (DataError, Image.DecompressionBombError, *DAMAGE):
        return None


def read_image_size(path: Path, *, decode: bool = False) -> tuple[int, int]:
    """Return the (height, width) of the upright image, that is, with its EXIF orientation applied.

    Args:
        path: Path of the image.
        decode: Whether to decode all pixels, which detects damage after the header.

    Raises:
        DataError: If the file does not exist or is not an image.
        Exception: Any of `DAMAGE`, or Pillow's `DecompressionBombError`, if it cannot be read.
    """
    kind = detect_file_kind(path)
    if kind == "numpy":
        array = memmap_array(path)  # raises if the file is too short
        return (int(array.shape[0]), int(array.shape[1]))
    if kind == "tiff":
        return _read_tiff_size(path, decode)
    with open_image(path) as image:
        if decode:
            verify_png(image)
            check_scans(image)
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
            check_tiff_scans(tiff)
            try:
                series.asarray()
            except ValueError as error:
                if NEEDED_CODECS not in str(error):
                    raise
                with open_image(path) as image:
                    image.load()
    return size[::-1] if is_turned else size


def detect_file_kind(path: Path) -> Literal["numpy", "tiff", "other"]:
    """Return the kind of an image file according to its first bytes, regardless of its name.

    Raises:
        DataError: If it cannot be opened or read, or is not a regular file.
    """
    with open_image_file(path) as stream:
        try:
            return stream_kind(stream)
        except OSError as error:  # for example a faulty disk, or a file in /proc
            raise DataError(f"image {path} cannot be read: {error}") from None


def stream_kind(stream: IO[bytes]) -> Literal["numpy", "tiff", "other"]:
    """Return the kind of an opened image file according to its first bytes, and rewind it."""
    kind = identify_format(read_start(stream))
    if kind == NUMPY:
        return "numpy"
    return "tiff" if kind == TIFF else "other"


def open_image_file(path: Path) -> BinaryIO:
    """Open an image file for reading.

    Raises:
        DataError: If it cannot be opened, or is not a regular file.
    """
    try:
        return open_regular_file(path)
    except FileNotFoundError:
        raise DataError(describe_address(path) or f"image {path} does not exist") from None
    except OSError as error:
        raise DataError(f"image {path} cannot be read: {error}") from None


def memmap_array(path: Path) -> NDArray[Any]:
    """Return the array of a `.npy` file as a read-only memory map.

    Raises:
        DataError: If its shape or dtype is not that of an image.
    """
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or 0 in array.shape:
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}; an image needs numbers of shape "
            "(height, width) or (height, width, channels)"
        )
    return array


def get_single_series(tiff: tifffile.TiffFile, path: Path) -> Any:
    """Return the only full-size image of a TIFF.

    Thumbnails, overviews and transparency masks are ignored.

    Raises:
        DataError: If there is not exactly one.
    """
    # Bits of NewSubfileType: 1 is a reduced-resolution image, 4 a transparency mask.
    candidates = [series for series in tiff.series if not int(series.keyframe.subfiletype) & 0b101]
    if len(candidates) != 1:
        shapes = ", ".join(f"{series.shape} {series.dtype}" for series in candidates[:3])
        raise DataError(
            f"{path} holds {len(candidates)} images of different kinds ({shapes}); store each in a "
            "separate file"
        )
    return candidates[0]


def read_tiff_orientation(tiff: tifffile.TiffFile) -> int:
    """Return the orientation of the first page of a TIFF, 1 to 8; 1 if it has none."""
    tag = tiff.pages.first.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def read_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if it has none or cannot be read."""
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


def verify_png(image: Image.Image, stream: IO[bytes] | None = None) -> None:
    """Verify the checksums of the pixels of a PNG, which Pillow does not do near their end.

    Args:
        image: Opened image; with another format, nothing is read.
        stream: File of the image; its position is restored. None: `image.fp`.

    Raises:
        OSError: If a checksum differs. Truncation is reported on decoding.
    """
    stream = stream or getattr(image, "fp", None)
    if image.format != "PNG" or stream is None:
        return
    position = stream.tell()
    stream.seek(len(_PNG_START))
    while len(header := stream.read(8)) == 8:
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if kind != b"IDAT":
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        checksum = zlib.crc32(kind)
        while length and (chunk := stream.read(min(length, _PNG_CHUNK))):
            checksum, length = zlib.crc32(chunk, checksum), length - len(chunk)
        expected = stream.read(4)
        if len(expected) == 4 and int.from_bytes(expected, "big") != checksum:
            raise OSError("its compressed pixels are damaged: a checksum differs")
    stream.seek(position)


def explain_swapped_size(path: Path, size: tuple[int, int], stated: tuple[int, int]) -> str:
    """Return the cause and the remedy if an EXIF orientation swaps the stated size, else "".

    Args:
        path: Path of the image.
        size: (height, width) of the upright image.
        stated: (height, width) in the annotation.
    """
    orientation = read_orientation(path)
    if stated != size[::-1] or orientation not in TURNED:
        return ""
    return (
        f"the EXIF orientation {orientation} of the image swaps width and height, and the "
        "annotation states the size as stored; if the objects were annotated on the stored pixels, "
        "remove the orientation from the image (exiftool -Orientation= FILE), and if on the "
        "upright image, swap width and height in the annotation"
    )


def _read_pillow_orientation(image: Image.Image, path: Path) -> int:
    """Return the orientation in EXIF or XMP, as Pillow's `getexif` does.

    For a PNG, Pillow decodes all pixels to reach the metadata that may follow them. This function
    skips from chunk to chunk instead.

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
    # The base class method: the one of PNG files decodes the image.
    return int(Image.Image.getexif(image).get(ORIENTATION, 1))


def _read_late_png_chunks(path: Path) -> tuple[bytes | None, bool]:
    """Read the metadata that follows the pixels of a PNG.

    Returns:
        The EXIF data, or None, and whether a text chunk may contain an orientation.

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
