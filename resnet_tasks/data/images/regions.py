"""Reading parts of image files, without the rest of the file if the format allows it.

Numpy arrays and uncompressed TIFFs are memory-mapped. Of tiled or striped TIFFs, only the segments
that overlap a part are decoded. All other formats (PNG, JPEG, ...) are decoded completely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from resnet_tasks.data.images.channels import ChannelLayout, StoredImage, convert_channels
from resnet_tasks.data.images.decoding import (
    MAX_PIXELS,
    get_tiff_layout,
    read_image,
    to_native_byte_order,
)
from resnet_tasks.data.images.image_damage import describe_damage
from resnet_tasks.data.images.image_files import (
    DAMAGE,
    NEEDED_CODECS,
    detect_file_kind,
    get_single_series,
    memmap_array,
    read_tiff_orientation,
)
from resnet_tasks.data.images.size_limits import (
    JPEG_COMPRESSION,
    check_jpeg_scans,
    refuse_large,
    refuse_large_tiles,
)
from resnet_tasks.data.images.tiff_inflation import open_tiff
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError

Array = NDArray[Any]

_PLAIN_PHOTOMETRICS = (1, 2)  # black is zero, RGB
_WHOLE_BITS = (8, 16, 32, 64)
_FEWEST_SEGMENTS = 4  # of a TIFF; with fewer, most parts overlap most of the file


class ImageRegions(ABC):
    """Image that is read in parts.

    Attributes:
        size: (height, width) of the upright image.
        is_in_memory: Whether parts are available without decoding.
    """

    size: tuple[int, int]
    is_in_memory: bool = False

    @abstractmethod
    def read(self, tile: Tile) -> Array:
        """Return the `(tile.height, tile.width, C)` values of a part in the data type of the file.

        Raises:
            DataError: If the file can no longer be read.
        """

    def read_all(self) -> Array:
        """Return the whole image."""
        return self.read(Tile.from_size(self.size))


class ArrayRegions(ImageRegions):
    """Parts of an image that is already decoded.

    Args:
        pixels: `(h, w, C)` values.
    """

    is_in_memory = True

    def __init__(self, pixels: Array) -> None:
        self.size = (int(pixels.shape[0]), int(pixels.shape[1]))
        self._pixels = pixels

    @property
    def nbytes(self) -> int:
        """Memory of the image in bytes."""
        return int(self._pixels.nbytes)

    def read(self, tile: Tile) -> Array:
        """Return a view of the part."""
        return self._pixels[tile.rows, tile.columns]


class _MappedRegions(ImageRegions):
    """Parts of uncompressed values in a memory-mapped file.

    Args:
        pixels: `(h, w, C)` memory-mapped values.
        layout: Layout of the channels.
        channels: Number of requested channels.
        path: Path for error messages.
    """

    def __init__(self, pixels: Array, layout: ChannelLayout, channels: int, path: Path) -> None:
        self.size = (int(pixels.shape[0]), int(pixels.shape[1]))
        self._pixels, self._layout, self._channels, self._path = pixels, layout, channels, path

    def read(self, tile: Tile) -> Array:
        part = to_native_byte_order(self._pixels[tile.rows, tile.columns])
        return convert_channels(StoredImage(part, self._layout), self._channels, self._path)


class _SegmentRegions(ImageRegions):
    """Parts of a compressed TIFF, decoded from the tiles or strips that they overlap.

    Args:
        path: Path of the file. It is opened for every part, so that processes do not share a file
            position.
        page: Only page of the file.
        channels: Number of requested channels.
    """

    def __init__(self, path: Path, page: Any, channels: int) -> None:
        self.size = (int(page.imagelength), int(page.imagewidth))
        self._path, self._channels = path, channels

    def read(self, tile: Tile) -> Array:
        try:
            with open_tiff(self._path, check_length=False) as tiff:
                page: Any = tiff.pages.first
                pixels = np.zeros((*tile.size, page.samplesperpixel), page.dtype)
                for top, left, part in _decode_segments(tiff, page, tile):
                    _paste(pixels, tile, part, (top, left))
                stored_image = StoredImage(pixels, get_tiff_layout(page, 1))
        except DAMAGE as error:
            text = describe_damage(error)
            raise DataError(f"image {self._path} cannot be read: {text}") from None
        return convert_channels(stored_image, self._channels, self._path)


def open_regions(path: Path, channels: int = 3, *, max_pixels: int | None = None) -> ImageRegions:
    """Open an image file for reading parts of it.

    Every part equals the same part of `read_image`.

    Args:
        path: Path of the image file; see `read_image`.
        channels: Number of requested channels; see `read_image`.
        max_pixels: Number of pixels above which images are rejected; None: `MAX_PIXELS`.

    Raises:
        DataError: If the image cannot be read, is too large, or has other channels.
    """
    kind = detect_file_kind(path)
    limit = MAX_PIXELS if max_pixels is None else max_pixels
    regions = None
    try:
        if kind == "numpy":
            regions = _open_numpy_regions(path, channels, limit)
        elif kind == "tiff":
            regions = _open_tiff_regions(path, channels, limit)
    except DAMAGE as error:
        text = describe_damage(error)
        raise DataError(f"image {path} cannot be read: {text}") from None
    return regions or ArrayRegions(read_image(path, channels, max_pixels=limit))


def _open_numpy_regions(path: Path, channels: int, limit: int) -> ImageRegions:
    array = memmap_array(path)
    present = array.shape[2] if array.ndim == 3 else 1
    refuse_large(path, (array.shape[0], array.shape[1]), present, limit)
    layout: ChannelLayout = "gray" if present == 1 else "bands"
    return _MappedRegions(array.reshape(*array.shape[:2], present), layout, channels, path)


def _open_tiff_regions(path: Path, channels: int, limit: int) -> ImageRegions | None:
    """Open a TIFF for reading parts, or return None if it must be decoded completely."""
    with open_tiff(path) as tiff:
        refuse_large_tiles(path, tiff, limit)
        get_single_series(tiff, path)
        page: Any = tiff.pages.first
        if len(tiff.pages) != 1 or read_tiff_orientation(tiff) != 1 or not _is_plain(page):
            return None
        shape = (int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel))
        refuse_large(path, shape[:2], shape[2], limit)
        if page.is_contiguous and page.compression == 1 and page.predictor == 1:
            kind = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
            pixels = np.memmap(path, kind, mode="r", offset=page.dataoffsets[0], shape=shape)
            return _MappedRegions(pixels, get_tiff_layout(page, 1), channels, path)
        if len(page.dataoffsets) < _FEWEST_SEGMENTS:
            return None
        regions = _SegmentRegions(path, page, channels)
        try:
            next(_decode_segments(tiff, page, Tile(0, 0, 1, 1)), None)
        except ValueError as error:
            if NEEDED_CODECS not in str(error):
                raise
            return None  # Pillow or OpenCV may decode what tifffile needs imagecodecs for.
    return regions


def _is_plain(page: Any) -> bool:
    """Return whether the stored values are those of the image, pixel by pixel."""
    return (
        int(page.photometric) in _PLAIN_PHOTOMETRICS
        and int(page.planarconfig) == 1
        and page.imagedepth == 1
        and page.dtype is not None
        and page.bitspersample in _WHOLE_BITS
        and page.fillorder == 1
    )


def _decode_segments(
    tiff: tifffile.TiffFile, page: Any, tile: Tile
) -> Iterator[tuple[int, int, Array]]:
    """Yield (first row, first column, `(h, w, C)`) of every tile or strip that overlaps `tile`."""
    rows, columns = (int(length) for length in page.chunks[:2])
    across = -(-int(page.imagewidth) // columns)
    segment_indices = [
        row * across + column
        for row in range(tile.top // rows, -(-(tile.top + tile.height) // rows))
        for column in range(tile.left // columns, -(-(tile.left + tile.width) // columns))
    ]
    read: Any = tiff.filehandle.read_segments(
        [page.dataoffsets[i] for i in segment_indices],
        [page.databytecounts[i] for i in segment_indices],
        indices=segment_indices,
        flat=True,
    )
    for segment in read:
        if int(page.compression) == JPEG_COMPRESSION and segment[0]:
            check_jpeg_scans(segment[0])
        decoded, place, shape = page.decode(*segment)
        if decoded is not None:  # a missing segment is all zeros
            yield place[2], place[3], decoded.reshape(*shape)[0]


def _paste(pixels: Array, tile: Tile, part: Array, place: tuple[int, int]) -> None:
    """Write the overlap of a segment at `place` with `tile` into `pixels`."""
    top, left = max(tile.top, place[0]), max(tile.left, place[1])
    bottom = min(tile.top + tile.height, place[0] + part.shape[0])
    right = min(tile.left + tile.width, place[1] + part.shape[1])
    pixels[top - tile.top : bottom - tile.top, left - tile.left : right - tile.left] = part[
        top - place[0] : bottom - place[0], left - place[1] : right - place[1]
    ]
