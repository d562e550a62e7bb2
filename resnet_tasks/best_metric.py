"""Metric that selects the best checkpoint: one metric of a head, or the mean of several."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MEAN = re.compile(r"mean\s*\((.*)\)", re.DOTALL)

BEST_FORM = "HEAD/METRIC or mean(HEAD/METRIC, HEAD/METRIC)"
"""Form of `evaluation.best`, for messages."""


def split_best_metric(text: str) -> tuple[str, ...]:
    """Return the metrics, as HEAD/METRIC, that `evaluation.best` names.

    Args:
        text: One metric, or `mean(...)` of several that are separated by commas.

    Raises:
        ValueError: If a mean names no metric, or one of them twice.
    """
    mean = _MEAN.fullmatch(text.strip())
    if mean is None:
        return (text.strip(),)
    names = tuple(name.strip() for name in mean.group(1).split(","))
    if not all(names):
        raise ValueError(f"evaluation.best is {text!r}, which lacks a metric; write {BEST_FORM}")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"evaluation.best is {text!r}, which names {name} twice; name each metric once"
            )
    return names


def join_best_metric(names: Sequence[str]) -> str:
    """Return the text of `evaluation.best` that names these metrics."""
    return names[0] if len(names) == 1 else f"mean({', '.join(names)})"
