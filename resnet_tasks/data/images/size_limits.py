"""Limits on the declared size of an image, checked before it is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    import tifffile

MAX_CHANNELS = 64
"""Maximum number of channels of an image, equal to the limit of `data.channels`."""


def refuse_large(path: Path, size: tuple[int, int], channels: int, limit: int) -> None:
    """Reject an image that is too large to be decoded.

    Args:
        path: Path of the image, for the error message.
        size: (height, width), pixels.
        channels: Number of channels.
        limit: Maximum number of pixels.

    Raises:
        DataError: If it has more pixels than allowed, or more channels than `MAX_CHANNELS`.
    """
    height, width = size
    if height * width > limit:
        raise DataError(
            f"{path} has {width} x {height} pixels, more than the limit of {limit:,}; cut it into "
            f"several files, or raise data.max_pixels (predict: --max-pixels {height * width})"
        )
    if channels > MAX_CHANNELS:
        raise DataError(
            f"{path} has {channels} channels of {width} x {height} (width x height), more than the "
            f"limit of {MAX_CHANNELS}; the channel axis must be the last one, and volumes must be "
            "stored as slices"
        )


def refuse_large_tiles(path: Path, tiff: tifffile.TiffFile, limit: int) -> None:
    """Reject a TIFF whose tiles have more pixels than an image may have.

    A tile is decoded as a unit, even if the image covers only a corner of it.

    Args:
        path: Path of the image, for the error message.
        tiff: Opened TIFF file.
        limit: Maximum number of pixels.

    Raises:
        DataError: If a tile has more pixels than the limit.
    """
    page = tiff.pages.first
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > limit:
        raise DataError(
            f"{path} has tiles of {page.tilewidth} x {page.tilelength} pixels (width x height), "
            f"more than the limit of {limit:,}; store it with tiles of 256 x 256"
        )
