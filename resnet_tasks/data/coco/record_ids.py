"""Ids of records in COCO files: validation, lookup and generation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, TypeGuard

from resnet_tasks.data.coco.problems import Id


def generate_new_ids(existing_ids: Iterable[Any]) -> Iterator[int]:
    """Return an iterator over new integer ids, greater than all existing integer ids."""
    return count(
        max((existing_id for existing_id in existing_ids if type(existing_id) is int), default=0)
        + 1
    )


def find(table: Mapping[Any, Any], key: object) -> Any:
    """Return `table[key]`, or None if the key is missing or is not a valid id."""
    return table.get(key) if is_id(key) else None


def parse_integer_id(text: str) -> int | None:
    """Return the integer that a text consists of, or None for any other text."""
    if not text.removeprefix("-").isdecimal():  # `int` also accepts spaces, plus signs and `1_0`.
        return None
    try:
        return int(text)
    except ValueError:  # More digits than `int` parses.
        return None


def is_id(value: object) -> TypeGuard[Id]:
    """Return whether `value` is a valid id: an integer or a non-empty string."""
    return type(value) is int or (type(value) is str and value != "")
