"""Weighted means and metrics of data sets whose images are drawn more or less often.

Shape glossary: `R` resampled data sets, `P` images, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import Metric

Counts = NDArray[np.int64]
"""`(R, P)` how often each image occurs in each data set."""
Floats = NDArray[np.float64]


def ratio(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Floats:
    """`numerator / denominator`, NaN where the denominator is 0."""
    top, bottom = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


def average_defined(values: Floats, axis: int) -> Floats:
    """Mean over an axis of the values that are not NaN; NaN where there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


def average_over_images(values: Floats, counts: Counts) -> Floats:
    """Means over images, those with NaN left out.

    Args:
        values: `(P, ...)`, NaN where not defined.
        counts: `(R, P)`.

    Returns:
        `(R, ...)`, NaN where no image is defined.
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    weights = counts.astype(np.float64)
    defined = ~np.isnan(flat)
    means = ratio(weights @ np.where(defined, flat, 0.0), weights @ defined.astype(np.float64))
    return means.reshape(len(counts), *values.shape[1:])


def flatten_class_values(
    name: str, value: Floats, per_class: Floats, classes: Sequence[str]
) -> dict[str, Floats]:
    """`name` and `name/class` of `(R,)` and `(R, K)` values, as `resample` gives them."""
    metrics = {name: value}
    metrics |= {f"{name}/{class_name}": per_class[:, i] for i, class_name in enumerate(classes)}
    return metrics


def build_metrics(
    values: Mapping[str, Floats], *, unit: str = "", lower_is_better: bool = False
) -> dict[str, Metric]:
    """The metrics of the first data set of what `resample` gives.

    Args:
        values: `metric` and `metric/class` -> `(R,)`; a metric comes before its classes.
        unit: Of all of them.
        lower_is_better: For all of them.
    """
    numbers = {key: _nan_to_none(column[0]) for key, column in values.items()}
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


def _nan_to_none(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)
