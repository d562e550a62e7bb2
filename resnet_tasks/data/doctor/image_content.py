"""Content of an image file that a check reads, without regard to its record."""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.doctor.image_similarity import difference_hash
from resnet_tasks.data.images.bit_depths import BitDepth, find_largest, read_bit_depth
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.data.images.image_damage import describe_read_error
from resnet_tasks.data.images.image_files import read_orientation
from resnet_tasks.errors import DataError

FileKey = tuple[int, int, int, int]
"""Device, number, size and time of change of a file, which identify its content."""


@dataclass(frozen=True, slots=True)
class ImageContent:
    """Content of an image file.

    Attributes:
        depth: Bit depth; None if the type is unknown to `BitDepth`.
        size: (height, width) of the decoded image; None if it was not decoded.
        orientation: EXIF orientation of the decoded image.
        problem: Reason why the image cannot be decoded, without its path; empty if it can or was
            not decoded.
        hash: Perceptual hash; None if it was not requested or the image has a single color.
        largest: Largest value of a decoded image of 16 bits.
    """

    depth: BitDepth | None
    size: tuple[int, int] | None = None
    orientation: int = 1
    problem: str = ""
    hash: NDArray[np.uint8] | None = None
    largest: int | None = None


KnownImages = MutableMapping[FileKey, ImageContent]
"""Content of the files that an earlier check with the same extent has read."""


def identify_file(path: str) -> FileKey | None:
    """Return what identifies a regular file; None if there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - fast
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_content(path: Path, *, decode: bool, hashes: bool) -> ImageContent:
    """Read an image file.

    Args:
        path: Path of the file.
        decode: Whether to decode the image; otherwise only its header is read.
        hashes: Whether to compute the perceptual hash of the decoded image.
    """
    if not decode:
        return ImageContent(read_bit_depth(path))
    try:
        image = decode_image(path)
    except DataError as error:
        return ImageContent(read_bit_depth(path), problem=describe_read_error(error, path))
    is_shallow = image.pixels.dtype == np.uint8
    return ImageContent(
        BitDepth(8) if is_shallow else read_bit_depth(path),
        (image.pixels.shape[0], image.pixels.shape[1]),
        read_orientation(path),
        hash=difference_hash(image) if hashes else None,
        largest=find_largest(image.pixels),
    )
