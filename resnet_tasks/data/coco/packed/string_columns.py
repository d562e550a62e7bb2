"""Strings and ids of many records in flat buffers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.problems import Id

Columns = Mapping[str, NDArray[Any]]


class TextColumn:
    """Column of strings, concatenated in one buffer."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._bytes = columns[f"{name}.bytes"]
        self._starts = columns[f"{name}.starts"]

    def get_bytes(self, position: int) -> bytes:
        """Return a string as UTF-8."""
        start, end = self._starts[position : position + 2].tolist()
        return self._bytes[start:end].tobytes()

    def __getitem__(self, position: int) -> str:
        return str(self.get_bytes(position), "utf-8", "surrogatepass")


def encode_texts(name: str, values: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return the two columns of a `TextColumn`.

    Args:
        name: Name of the column.
        values: Strings of the column.
    """
    return join_texts(name, [text.encode("utf-8", "surrogatepass") for text in values])


def join_texts(name: str, values: Sequence[bytes | memoryview]) -> dict[str, NDArray[Any]]:
    """Return the two columns of a `TextColumn` of strings that are encoded as UTF-8."""
    return {
        f"{name}.bytes": np.frombuffer(b"".join(values), np.uint8),
        f"{name}.starts": compute_starts(map(len, values)),
    }


def compute_starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    """Return the (N + 1,) int64 start offsets of N consecutive parts of these lengths."""
    return np.cumsum(np.fromiter(chain((0,), lengths), np.int64), dtype=np.int64)


class IdColumn:
    """Column of ids, which are integers or strings."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._numbers = columns.get(name)
        self._texts = TextColumn(columns, name) if self._numbers is None else None

    def __getitem__(self, position: int) -> Id:
        if self._texts is None:
            assert self._numbers is not None
            return int(self._numbers[position])
        identifier: Id = json.loads(self._texts[position])
        return identifier


def encode_ids(name: str, ids: Sequence[Id]) -> dict[str, NDArray[Any]]:
    """Return the columns of an `IdColumn`: int64, or JSON strings if an id does not fit into int64.

    Args:
        name: Name of the column.
        ids: Ids of the column.
    """
    if set(map(type, ids)) <= {int}:
        with suppress(OverflowError):
            return {name: np.asarray(ids, np.int64)}
    return encode_texts(name, map(json.dumps, ids))
