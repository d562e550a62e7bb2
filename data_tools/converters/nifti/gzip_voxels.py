"""Reader for voxels of gzip-compressed NIfTI files, bounded and verified to the last byte.

A reader that stops after the last voxel never reaches the checksum (CRC-32 and length) at the end
of a gzip member, so that flipped bits would pass for voxels. Here every file is read to its end.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import format_bytes

MAGIC = b"\x1f\x8b"
CHUNK = 1 << 20
FIRST_VERSION, SECOND_VERSION = 348, 540
"""Header sizes of NIfTI-1 and NIfTI-2 in bytes, which the first number of a header states."""
MAX_EXTENSIONS = 64 << 20
"""Maximum number of bytes before the first voxel."""
MAX_RATIO = 1032
"""Maximum number of bytes to which one byte of deflate data can expand."""
MAX_TRAILING = 256 << 20
"""Maximum number of decompressed bytes that are read only to reach the checksum: after the last
voxel, or in a file without a valid header. A file with more counts as a decompression bomb."""


def is_gzip_name(path: Path) -> bool:
    """Return whether a file is compressed according to its name, by the rule of nibabel."""
    return path.name.lower().endswith(".gz")


def require_gzip_name(path: Path) -> None:
    """Require that the name of a file states correctly whether it is gzip-compressed.

    Raises:
        DataError: If the first bytes contradict the name.
    """
    if not path.is_file():
        return  # the reader reports the missing file
    with path.open("rb") as stream:
        is_compressed = stream.read(len(MAGIC)) == MAGIC
    if is_compressed and path.suffix.lower() == ".nii":
        raise _unreadable(path, f"it is gzip data; rename it to {path.name}.gz")
    if not is_compressed and is_gzip_name(path):
        raise _unreadable(
            path,
            "it is not gzip data, although its name ends in .gz; fetch the file again, or remove "
            ".gz from its name if it was never compressed",
        )


def require_near_voxels(path: Path) -> None:
    """Refuse a header that places the first voxel implausibly far into the file.

    Readers load the extensions, which lie between header and voxels, into memory at once.

    Raises:
        DataError: If there are more than `MAX_EXTENSIONS` bytes before the first voxel, or the data
            is damaged.
    """
    with _gzip_errors(path), gzip.open(path) as stream:
        header = stream.read(SECOND_VERSION)
    for order in "<>":
        size = struct.unpack_from(f"{order}i", header)[0] if len(header) >= FIRST_VERSION else 0
        if size == FIRST_VERSION:
            offset = struct.unpack_from(f"{order}f", header, 108)[0]
        elif size == SECOND_VERSION == len(header):
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
        else:
            continue
        if not offset <= MAX_EXTENSIONS:  # also true for NaN
            verify_gzip(path)
            raise _unreadable(
                path,
                f"its header places the first voxel at byte {offset:,.0f}, the limit is "
                f"{MAX_EXTENSIONS:,}; fetch the file again, or rewrite it without extensions",
            )


def verify_gzip(path: Path) -> None:
    """Read a gzip file to its end, up to `MAX_TRAILING` bytes, to verify its checksum.

    Raises:
        DataError: If the data is damaged or ends early.
    """
    with _gzip_errors(path), gzip.open(path) as stream:
        _skip(stream, MAX_TRAILING)


def read_gzip_voxels(
    path: Path, shape: Sequence[int], dtype: np.dtype[Any], offset: int
) -> NDArray[Any]:
    """Return the stored voxels of a gzip-compressed file whose checksum matches.

    Args:
        path: Path of the file.
        shape: Size of every axis, according to the header.
        dtype: Type of a voxel, including its byte order.
        offset: Number of decompressed bytes before the first voxel.

    Returns:
        Array of `shape` and `dtype` in Fortran order (first axis fastest).

    Raises:
        DataError: If the data is damaged, ends early, or has a length that contradicts the header.
    """
    num_bytes = math.prod(int(side) for side in shape) * dtype.itemsize
    _require_size(path, num_bytes)
    voxels = np.empty(num_bytes, dtype=np.uint8)
    with _gzip_errors(path), gzip.open(path) as stream:
        if _skip(stream, offset) < offset:
            raise _unreadable(
                path, f"it ends before its first voxel at byte {offset:,}; fetch the file again"
            )
        num_read = _fill(stream, voxels)
        trailing = _skip(stream, MAX_TRAILING + 1)
    if num_read < num_bytes:
        raise _unreadable(
            path,
            f"it holds {num_read:,} bytes of voxels, but its header promises {num_bytes:,} "
            f"({' x '.join(map(str, shape))} of {dtype}); fetch the file again",
        )
    if trailing > MAX_TRAILING:
        raise _unreadable(
            path,
            f"more than {MAX_TRAILING:,} bytes follow its last voxel; fetch the file again, or "
            "rewrite it",
        )
    return np.ndarray(tuple(shape), dtype, buffer=voxels, order="F")


def _require_size(path: Path, num_bytes: int) -> None:
    """Refuse a header that requires more memory than the file can fill or the machine has."""
    file_size = path.stat().st_size
    if num_bytes > file_size * MAX_RATIO:
        verify_gzip(path)  # if the header is damaged, the checksum error is the better message
        raise _unreadable(
            path,
            f"its header promises {num_bytes:,} bytes of voxels, more than its {file_size:,} "
            "compressed bytes can hold; fetch the file again",
        )
    available = int(psutil.virtual_memory().available)
    if num_bytes > available:
        raise _unreadable(
            path,
            f"it needs {format_bytes(num_bytes)} of memory, but only {format_bytes(available)} "
            "are available; crop or resample it, or convert it on a larger machine",
        )


def _fill(stream: gzip.GzipFile, voxels: NDArray[np.uint8]) -> int:
    """Fill an array from a stream and return the number of bytes read."""
    view, place = voxels.data, 0
    while place < len(view) and (block := stream.read(min(CHUNK, len(view) - place))):
        view[place : place + len(block)] = block
        place += len(block)
    return place


def _skip(stream: gzip.GzipFile, most: int) -> int:
    """Read and discard at most `most` bytes, chunk by chunk, and return their number."""
    skipped = 0
    while skipped < most and (block := stream.read(min(CHUNK, most - skipped))):
        skipped += len(block)
    return skipped


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"the volume {path} cannot be read: {reason}")


@contextmanager
def _gzip_errors(path: Path) -> Iterator[None]:
    """Convert errors of the decompressor to a `DataError` that names the file."""
    try:
        yield
    except EOFError:
        raise _unreadable(
            path,
            "it is truncated (its gzip data ends before the checksum); fetch the file again",
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        reason = f"its gzip checksum does not match, the data is damaged ({error})"
        if str(error).startswith("Not a gzipped file"):
            reason = "bytes that are not gzip data follow the end of its compressed data"
        raise _unreadable(path, f"{reason}; fetch the file again") from None
