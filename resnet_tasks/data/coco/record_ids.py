"""Ids of records in a COCO file: valid values, lookup and new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, TypeGuard

from resnet_tasks.data.coco.problems import Id


def generate_new_ids(existing_ids: Iterable[Any]) -> Iterator[int]:
    """New ids, above all whole numbers among the known ones."""
    return count(
        max((existing_id for existing_id in existing_ids if type(existing_id) is int), default=0)
        + 1
    )


def find(table: Mapping[Any, Any], key: object) -> Any:
    """`table[key]`, or None where there is none or `key` is a list or an object."""
    return table.get(key) if is_id(key) else None


def is_id(value: object) -> TypeGuard[Id]:
    """Return whether this can be an id: a whole number, or text that is not empty."""
    return type(value) is int or (type(value) is str and value != "")
