"""Checks of field values in records of a COCO file: ids, numbers, sizes and boxes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.records import Xywh

MAX_NUMBER = 1e300
"""Largest number accepted. JSON integers may exceed the range of floats."""

MAX_LENGTH = 1e9
"""Largest accepted side length of an image in pixels."""


def is_length(value: object) -> TypeGuard[float]:
    """Return whether `value` is a whole number of pixels from 1 to `MAX_LENGTH`."""
    return isinstance(value, int | float) and 1 <= value <= MAX_LENGTH and value == int(value)


def is_spacing(value: object) -> TypeGuard[Sequence[float]]:
    """Return whether `value` is a list of two positive numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(number) in (int, float) and 0 < number <= MAX_NUMBER for number in value)
    )


def is_finite(*numbers: float) -> bool:
    """Return whether all numbers are finite and within the range of floats."""
    try:
        # The sum is NaN or infinite if any number is, so one check covers all of them.
        return math.isfinite(sum(numbers))
    except OverflowError:
        return False


def is_box(value: object) -> TypeGuard[Xywh]:
    """Return whether `value` is a list of four numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) in (int, float) for number in value)
    )


def has_lost_number(value: object) -> bool:
    """Return whether `value` is a box with null for a number.

    JSON has neither NaN nor infinity. Programs, this package among them, write null instead.
    """
    return (
        isinstance(value, list | tuple)
        and None in value
        and is_box([0 if number is None else number for number in value])
    )


def clip_to_image(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box clipped to the image."""
    x, y, width, height = box
    return (
        max(x, 0),
        max(y, 0),
        min(x + width, size[1]),
        min(y + height, size[0]),
    )


def generate_new_ids(existing_ids: Iterable[Any]) -> Iterator[int]:
    """Return an iterator over new integer ids, greater than all existing integer ids."""
    return count(
        max((number for number in map(to_whole_id, existing_ids) if type(number) is int), default=0)
        + 1
    )


def find(table: Mapping[Any, Any], key: object) -> Any:
    """Return `table[key]`, or None if the key is missing or is not a valid id."""
    key = to_whole_id(key)
    return table.get(key) if is_id(key) else None


def to_whole_id(value: Any) -> Any:
    """Return an id like 18.0, which pandas and JavaScript write, as an integer; keep others."""
    return int(value) if type(value) is float and value.is_integer() else value


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


def find_positions(
    known_ids: NDArray[np.int64], requested_ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the position of each requested id among the known ids, and whether it is known."""
    if not len(known_ids):
        return np.zeros(len(requested_ids), np.int64), np.zeros(len(requested_ids), np.bool_)
    order = np.argsort(known_ids)
    positions = order[
        np.searchsorted(known_ids, requested_ids, sorter=order).clip(max=len(known_ids) - 1)
    ]
    return positions, known_ids[positions] == requested_ids


def format_value(value: object) -> str:
    """Format a value for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
