"""Error for one invalid object, which is skipped if there are few of them."""

from __future__ import annotations

from collections.abc import Sequence

from resnet_tasks.errors import DataError

MAX_INVALID = 10
"""Number of invalid objects of a split that are always skipped."""
MAX_INVALID_FRACTION = 0.1
"""Fraction of the objects of a split up to which more invalid objects are skipped."""


class InvalidShapeError(DataError):
    """Fault of a single object, such as a polygon of two points."""


def require_few_invalid(errors: Sequence[str], num_valid: int, split: str) -> None:
    """Check that invalid objects are exceptions.

    Many of them are a fault of the whole source, such as pixels in place of fractions.

    Args:
        errors: Message for every invalid object of a split.
        num_valid: Number of valid objects of the split.
        split: Name of the split.

    Raises:
        DataError: If no object is valid, or more than `MAX_INVALID` and more than
            `MAX_INVALID_FRACTION` of the objects are invalid.
    """
    total = num_valid + len(errors)
    is_many = len(errors) > MAX_INVALID and len(errors) > MAX_INVALID_FRACTION * total
    if errors and (is_many or not num_valid):
        raise DataError(
            f"{errors[0]} ({len(errors)} of {total} objects of {split} are invalid; up to "
            f"{MAX_INVALID}, or {MAX_INVALID_FRACTION:.0%}, are skipped)"
        )
