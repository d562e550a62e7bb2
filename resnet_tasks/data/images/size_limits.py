"""Limits on what an image may declare, checked before anything is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnet_tasks.errors import DataError

if TYPE_CHECKING:
    import tifffile

MAX_CHANNELS = 64
"""Most channels of an image; the recipe's limit."""


def refuse_large(path: Path, size: tuple[int, int], channels: int, limit: int) -> None:
    """Check that an image is small enough to be decoded.

    Args:
        path: Path of the image, for the message.
        size: (height, width), pixels.
        channels: Number of channels.
        limit: Most pixels allowed.

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
            f"{path} has {channels} channels of {width} x {height} (width x height), more than "
            f"the limit of {MAX_CHANNELS}; channels come last, and volumes are stored as slices"
        )


def refuse_large_tiles(path: Path, tiff: tifffile.TiffFile, limit: int) -> None:
    """Check that the tiles of a TIFF are no larger than an image may be.

    A tile is decoded as a unit, even where the image covers a corner of it.

    Args:
        path: Path of the image, for the message.
        tiff: The opened file.
        limit: Most pixels allowed.

    Raises:
        DataError: If they are.
    """
    page = tiff.pages.first
    if page.is_tiled and page.tilewidth * page.tilelength * page.tiledepth > limit:
        raise DataError(
            f"{path} has tiles of {page.tilewidth} x {page.tilelength} pixels (width x height), "
            f"more than the limit of {limit:,}; store it with tiles of 256 x 256"
        )
