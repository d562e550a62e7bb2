"""Named columns in one safetensors file, memory-mapped and shared by all processes."""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from resnet_tasks.errors import DataError, format_error
from resnet_tasks.files.atomic import replace_file

_TYPES = {"I64": np.int64, "I32": np.int32, "F64": np.float64, "U8": np.uint8, "BOOL": np.bool_}
_MOST_HEADER = 1 << 28
"""Maximum length of the header in bytes; a file with a longer one is damaged or of another kind."""
_DAMAGED = (struct.error, RecursionError, ValueError, LookupError, TypeError, AttributeError)
"""Errors of reading a header that is damaged or of another kind."""


class MappedColumns(Mapping[str, NDArray[Any]]):
    """Read-only columns of an opened file, some of which may be replaced.

    Pickling transfers the path and the replaced columns only: the other process opens the file
    again.

    Args:
        path: Path of the file.
        metadata: Values that `write_columns` stored with the columns, checksum included.
        arrays: Name -> column of the file.
        replaced: Name -> array that replaces the column of the file.

    Attributes:
        path: Path of the file.
        metadata: Values that `write_columns` stored with the columns, checksum included.
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
        """Return the same columns with some of them replaced.

        Args:
            columns: Name -> array that replaces the column.
        """
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
    """Write columns and metadata to a file atomically.

    Args:
        path: Path of the file; an existing file is replaced.
        columns: Name -> array of int64, int32, float64, uint8 or bool.
        metadata: JSON-compatible values.

    Raises:
        OSError: If the file cannot be written.
    """
    arrays = {name: np.ascontiguousarray(columns[name]) for name in columns}
    encoded_metadata = json.dumps({**metadata, "checksum": _compute_checksum(arrays)})
    try:
        with replace_file(path) as partial:
            partial.touch()
            usual = partial.stat().st_mode
            save_file(arrays, partial, metadata={"about": encoded_metadata})
            partial.chmod(usual)  # safetensors creates files that only their owner can read
    except SafetensorError as error:  # for example of a full disk
        raise OSError(str(error)) from None


def open_columns(path: Path) -> MappedColumns:
    """Open a file of `write_columns` and verify its checksum over all columns.

    Raises:
        DataError: If the file is damaged, or of another kind.
        OSError: If the file cannot be read.
    """
    columns = _map_file(path)
    if _compute_checksum(columns) != columns.metadata["checksum"]:
        raise DataError(f"{path} is damaged: its checksum does not match")
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
    except (
        struct.error,
        RecursionError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        reason = format_error(error)
        raise DataError(f"{path} is damaged: {reason}") from None
    return MappedColumns(path, metadata, arrays)


def _map_array(content: mmap.mmap, begin: int, entry: dict[str, Any]) -> NDArray[Any]:
    kind = np.dtype(_TYPES[entry["dtype"]])
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= len(content) - begin:
        raise ValueError("it is truncated")
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
