"""Numbers of classes as text: all of a few classes, the highest and lowest of many."""

from __future__ import annotations

from collections.abc import Mapping

from resnet_tasks.errors import format_list, shorten_name

MAX_CLASSES = 12
"""Maximum number of classes that a line lists completely."""
NAME_LENGTH = 20
"""Number of characters of a class name in such a line."""
NUM_EXTREMES = 3
"""Number of the highest and of the lowest classes that a line lists of many."""


def has_many_classes(values: Mapping[str, float]) -> bool:
    """Return whether there are too many classes to list all of them in one line."""
    return len(values) > MAX_CLASSES


def format_counts(counts: Mapping[str, int]) -> str:
    """Format the count of each class; of many classes, the most and the least frequent ones.

    Args:
        counts: Class name -> count.

    Returns:
        `cell 5, wall 0`; or for many classes the total, the number of classes, the most and the
        least frequent ones, and the first ones that do not occur.
    """
    if not has_many_classes(counts):
        return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
    present = {name: count for name, count in counts.items() if count}
    if not present:
        return f"none of {len(counts)} classes"
    absent = [shorten_name(name, NAME_LENGTH) for name in counts if name not in present]
    share = f"{len(present)} of {len(counts)}" if absent else f"{len(counts)}"
    parts = [
        f"{sum(counts.values())} in {share} classes",
        format_extremes(present, ("most", "fewest")),
    ]
    if absent:
        parts.append(f"none: {format_list(absent, NUM_EXTREMES)}")
    return "; ".join(parts)


def format_extremes(values: Mapping[str, float], headings: tuple[str, str]) -> str:
    """Format the classes with the highest and the lowest values, such as `most: a 9; fewest: b 1`.

    Args:
        values: Class name -> value.
        headings: Words before the highest and before the lowest values.
    """
    ranked = sorted(values, key=lambda name: -values[name])
    texts = [
        f"{shorten_name(name, NAME_LENGTH)} {value if isinstance(value, int) else f'{value:.4g}'}"
        for name, value in ((name, values[name]) for name in ranked)
    ]
    if len(texts) <= 2 * NUM_EXTREMES:
        return f"{headings[0]}: {', '.join(texts)}"
    highest, lowest = texts[:NUM_EXTREMES], texts[-NUM_EXTREMES:]
    return f"{headings[0]}: {', '.join(highest)}; {headings[1]}: {', '.join(lowest)}"
