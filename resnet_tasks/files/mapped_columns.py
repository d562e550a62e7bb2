"""Named columns in one safetensors file, mapped into memory and shared by all processes."""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from resnet_tasks.errors import DataError

_TYPES = {"I64": np.int64, "I32": np.int32, "F64": np.float64, "U8": np.uint8, "BOOL": np.bool_}
_MOST_HEADER = 1 << 28
"""Bytes; a longer header is none."""


class MappedColumns(Mapping[str, NDArray[Any]]):
    """Columns of an opened file, read-only; some of them replaced.

    Sent to another process, it is opened there again: only the name of the file travels.

    Args:
        path: The file.
        metadata: What was written with it.
        arrays: Its columns.
        replaced: Columns that stand in the place of the file's.
    """

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        replaced: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.path = path
        self.metadata = metadata
        self._arrays = arrays
        self._replaced = dict(replaced or {})

    def with_columns(self, columns: Mapping[str, NDArray[Any]]) -> MappedColumns:
        """The same with other columns in the place of some."""
        replaced = {**self._replaced, **columns}
        return MappedColumns(self.path, self.metadata, self._arrays, replaced)

    def __getitem__(self, name: str) -> NDArray[Any]:
        replacement = self._replaced.get(name)
        return self._arrays[name] if replacement is None else replacement

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.metadata["checksum"], self._replaced)


def _reopen(path: Path, checksum: int, replaced: dict[str, NDArray[Any]]) -> MappedColumns:
    columns = _map_file(path)
    if columns.metadata["checksum"] != checksum:
        raise DataError(f"{path} was replaced while it was in use; start again")
    return columns.with_columns(replaced)


def write_columns(
    path: Path, columns: Mapping[str, NDArray[Any]], metadata: dict[str, Any]
) -> None:
    """Writes columns and what is to be known of them: whole, or not at all.

    Args:
        path: Is replaced.
        columns: Of int64, int32, float64, uint8 or bool.
        metadata: Plain values.

    Raises:
        OSError: If it cannot be written.
    """
    arrays = {name: np.ascontiguousarray(columns[name]) for name in columns}
    encoded_metadata = json.dumps({**metadata, "checksum": _compute_checksum(arrays)})
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.touch()
        usual = partial.stat().st_mode
        save_file(arrays, partial, metadata={"about": encoded_metadata})
        partial.chmod(usual)  # safetensors lets nobody else read it
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(str(error)) from None  # safetensors' own, where a disk is full
        raise


def open_columns(path: Path) -> MappedColumns:
    """The columns of a file that `write_columns` wrote, every byte checked.

    Raises:
        DataError: If it is damaged, or another kind of file.
        OSError: If it cannot be read.
    """
    columns = _map_file(path)
    if _compute_checksum(columns) != columns.metadata["checksum"]:
        raise DataError(f"{path} is damaged: its checksum is another")
    return columns


def _map_file(path: Path) -> MappedColumns:
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MOST_HEADER:
                raise ValueError("no header")
            header = json.loads(stream.read(length))
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        metadata = json.loads(header.pop("__metadata__")["about"])
        arrays = {
            name: _map_array(content, 8 + length, array_spec) for name, array_spec in header.items()
        }
        if not isinstance(metadata["checksum"], int):
            raise ValueError("no checksum")
    except (struct.error, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged: {reason}") from None
    return MappedColumns(path, metadata, arrays)


def _map_array(content: mmap.mmap, begin: int, entry: dict[str, Any]) -> NDArray[Any]:
    kind = np.dtype(_TYPES[entry["dtype"]])
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(content) - begin:
        raise ValueError("it ends too early")
    count = (end - start) // kind.itemsize
    flat = np.frombuffer(content, kind, count, begin + start)
    return flat.reshape(entry["shape"])


def _compute_checksum(columns: Mapping[str, NDArray[Any]]) -> int:
    checksum = 0
    for name in sorted(columns):
        array = columns[name]
        checksum = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), checksum)
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum)
    return checksum
