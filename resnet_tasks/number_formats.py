"""Numbers in messages, tables and reports: counted nouns, sizes, durations and p-values."""

from __future__ import annotations

import re

VERBS = {"is": "are", "has": "have", "does": "do", "was": "were"}
DECIMAL_UNITS = ("kB", "MB", "GB", "TB")
BINARY_UNITS = ("KiB", "MiB", "GiB", "TiB")


class Count(int):
    """Number that agrees with the words after it.

    `f"{Count(n):image}"` is `1 image` or `3 images`, `f"{Count(n):box has}"` is `1 box has` or
    `3 boxes have`. A bar separates forms that do not follow the rules of `_to_plural`:
    `f"{Count(n):image looks|images look}"`. Other format specifications are those of `int`.
    """

    def __format__(self, format_spec: str) -> str:
        if len(format_spec) < 2 or not format_spec[0].isalpha():
            return super().__format__(format_spec)
        one, bar, many = format_spec.partition("|")
        return f"{int(self)} {one if self == 1 else many if bar else _to_plural(one)}"


def _to_plural(words: str) -> str:
    """Return the plural of a noun with words before it, and of a verb in `VERBS` after it."""
    start, _, last = words.rpartition(" ")
    if start and last in VERBS:
        return f"{_to_plural(start)} {VERBS[last]}"
    if re.search(r"(s|x|ch|sh)$", words) and last != "epoch":  # its `ch` is a k
        return f"{words}es"
    return re.sub(r"([^aeiou])y$", r"\1ie", words) + "s"


def format_bytes(num_bytes: float, *, binary: bool = False) -> str:
    """Format a size with three significant digits and the unit that fits, such as `12.3 MB`.

    Args:
        num_bytes: Number of bytes, at least 0.
        binary: Whether to use powers of 1024 (`GiB`), as is usual for memory, instead of 1000.
    """
    base, units = (1024, BINARY_UNITS) if binary else (1000, DECIMAL_UNITS)
    if num_bytes < base:
        return f"{Count(num_bytes):byte}"
    value, power = num_bytes / base, 0
    while value >= 999.5 and power < len(units) - 1:  # would be rounded to 1000
        value, power = value / base, power + 1
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {units[power]}"


def format_p_value(p: float) -> str:
    """Format a p-value for a table: `0.43`, `0.012` or `<0.001`."""
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def format_duration(seconds: float) -> str:
    """Format a duration in seconds with units: `12.3 s`, `3 min 5 s` or `2 h 7 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {remaining_seconds} s"
