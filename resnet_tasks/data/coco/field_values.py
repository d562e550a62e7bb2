"""Checks of field values in records of a COCO file: numbers, sizes and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from resnet_tasks.data.coco.records import Xywh

MAX_NUMBER = 1e300
"""JSON may hold whole numbers beyond all floats."""

MAX_LENGTH = 1e9
"""Pixels of a side."""


def is_length(value: object) -> TypeGuard[float]:
    """Return whether this is a whole number of pixels from 1 to `MAX_LENGTH`."""
    return isinstance(value, int | float) and 1 <= value <= MAX_LENGTH and value == int(value)


def is_spacing(value: object) -> TypeGuard[Sequence[float]]:
    """Return whether this is a list of two positive numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(number) in (int, float) and 0 < number <= MAX_NUMBER for number in value)
    )


def is_finite(*numbers: float) -> bool:
    """Whether no number is infinite, none at all, or a whole number beyond all floats."""
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:
        return False


def is_box(value: object) -> TypeGuard[Xywh]:
    """Whether this is a list of four numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) in (int, float) for number in value)
    )
