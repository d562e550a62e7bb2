"""Weighted means and metrics of resampled datasets.

Shape glossary: `R` resampled datasets, `P` images, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import Metric

Counts = NDArray[np.int64]
"""`(R, P)` number of times each image occurs in each dataset."""
Floats = NDArray[np.float64]


def ratio(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Floats:
    """Return `numerator / denominator`, NaN where the denominator is 0."""
    top, bottom = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


def average_defined(values: Floats, axis: int) -> Floats:
    """Average over an axis, ignoring NaN; NaN if all values are NaN."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


def average_over_images(values: Floats, counts: Counts) -> Floats:
    """Average over images, ignoring NaN.

    Args:
        values: `(P, ...)`, NaN where undefined.
        counts: `(R, P)` number of times each image occurs.

    Returns:
        `(R, ...)`, NaN where the value is undefined for all images.
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    weights = counts.astype(np.float64)
    defined = ~np.isnan(flat)
    means = ratio(weights @ np.where(defined, flat, 0.0), weights @ defined.astype(np.float64))
    return means.reshape(len(counts), *values.shape[1:])


def flatten_class_values(
    name: str, value: Floats, per_class: Floats, classes: Sequence[str]
) -> dict[str, Floats]:
    """Combine `(R,)` values and `(R, K)` values per class in the form of `resample`.

    Returns:
        `name` -> `value`, and `name/class` -> column of `per_class`.
    """
    metrics = {name: value}
    metrics |= {f"{name}/{class_name}": per_class[:, i] for i, class_name in enumerate(classes)}
    return metrics


def build_metrics(
    values: Mapping[str, Floats], *, unit: str = "", lower_is_better: bool = False
) -> dict[str, Metric]:
    """Build metrics from the first resampled dataset in the output of `resample`.

    Args:
        values: `metric` and `metric/class` -> `(R,)`; a metric precedes its classes.
        unit: Unit of all metrics.
        lower_is_better: Whether lower values of all metrics are better.
    """
    numbers = {key: nan_to_none(column[0]) for key, column in values.items()}
    per_class: dict[str, dict[str, float | None]] = {}
    for key, value in numbers.items():
        name, slash, label = key.partition("/")
        class_values = per_class.setdefault(name, {})
        if slash:
            class_values[label] = value
    return {
        name: Metric(numbers[name], class_values, unit=unit, lower_is_better=lower_is_better)
        for name, class_values in per_class.items()
    }


def nan_to_none(value: float) -> float | None:
    """Convert a metric's value to a JSON value: None if it is undefined (NaN)."""
    return None if np.isnan(value) else float(value)
