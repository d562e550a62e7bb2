"""Checks of field values in records of a COCO file: numbers, sizes and boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

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
