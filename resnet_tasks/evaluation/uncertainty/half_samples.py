"""95 % intervals from half samples: the delete-half jackknife on the log-odds scale.

A half sample consists of half of the units (images, or groups of images), drawn without
replacement. The variance of a statistic over half samples estimates its variance over datasets
(Shao and Wu, A General Theory for Jackknife Variance Estimation, Annals of Statistics 1989; Politis
and Romano, Large Sample Confidence Regions Based on Subsamples, Annals of Statistics 1994). Draws
with replacement repeat images. Average precision of repeated images varies less than that of new
ones, and it is biased upwards, so percentiles of such draws miss the true value too often.

Metrics between 0 and 1 are transformed to log odds, where their distribution is closer to a normal
one. The difference between half samples and the whole dataset estimates the bias of the latter; a
part of it is subtracted. `benchmarks/coverage.py` compares this method with others.

Shape glossary: `R` half samples.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95
LEAST_DEFINED = 0.95
"""Minimum fraction of half samples that must define a metric before it gets an interval."""
WIDENING = 1.12
"""Factor by which intervals are wider than for normal statistics. It makes up for skewness and for
the few images with large areas or many objects that dominate a metric; measured with
`benchmarks/coverage.py`."""
BIAS = 0.25
"""Fraction of the estimated bias that is subtracted. All of it would be best for average precision.
For IoU and Dice, however, its error correlates with that of the metric, because a few images with
large areas dominate both; they are best without. A quarter serves both."""
NO_LIMITS = (-math.inf, math.inf)
FRACTION = (0.0, 1.0)
DISTANCE = (0.0, math.inf)


def spread_values(
    values: Floats,
    estimate: float,
    num_units: int,
    limits: tuple[float, float] = NO_LIMITS,
    *,
    widening: float = WIDENING,
) -> Floats:
    """Convert half-sample values to values whose percentiles are the ends of intervals.

    Their mean is the estimate minus a part of its bias, on the scale of the interval, and their
    spread is that of datasets of the same size, times `widening`.

    Args:
        values: `(R,)` metric of half samples, NaN where undefined.
        estimate: Metric of all units.
        num_units: Number of units, at least 2.
        limits: Lowest and highest possible value of the metric: `FRACTION`, `DISTANCE` or
            `NO_LIMITS`. They are ignored if a value lies outside.
        widening: Factor by which the values are spread more widely.

    Returns:
        `(R,)`, NaN where undefined.
    """
    defined = values[~np.isnan(values)]
    if not len(defined) or (defined == estimate).all():
        return values
    if defined.min() < limits[0] or defined.max() > limits[1]:
        limits = NO_LIMITS
    if limits != FRACTION:
        return np.clip(_spread_around(values, estimate, num_units, widening), *limits)
    # Half an image is added to either side, so that values of 0 and 1 have finite log odds.
    margin = 0.5 / num_units
    log_odds, center = (
        np.log((part + margin) / (1 - part + margin)) for part in (values, np.float64(estimate))
    )
    odds = np.exp(_spread_around(log_odds, float(center), num_units, widening))
    return np.asarray(np.clip((odds * (1 + margin) - margin) / (1 + odds), *limits))


def _spread_around(values: Floats, estimate: float, num_units: int, widening: float) -> Floats:
    num_sampled = num_units // 2
    # Percentiles are multiplied by the ratio of Student's t to the normal distribution.
    tail = (1 + LEVEL) / 2
    factor = scipy.special.stdtrit(num_units - 1, tail) / scipy.special.ndtri(tail)
    factor *= widening
    # Of an odd number of units, a sample has less than half.
    factor *= math.sqrt(num_sampled / (num_units - num_sampled))
    mean = float(np.nanmean(values))
    spread: Floats = estimate - BIAS * (mean - estimate) + factor * (values - mean)
    return spread


def compute_interval(
    values: Floats,
    estimate: float,
    num_units: int,
    limits: tuple[float, float] = NO_LIMITS,
) -> tuple[float, float] | None:
    """Compute the 95 % interval of a metric from half samples; see `spread_values`."""
    return compute_percentiles(spread_values(values, estimate, num_units, limits))


def compute_percentiles(values: Floats) -> tuple[float, float] | None:
    """Return the 2.5 and 97.5 percentiles of spread values.

    Half samples on which the metric is undefined (a class was not drawn) are ignored. If they are
    more than 5 %, the result is None, because the remaining ones are not representative.
    """
    defined = values[~np.isnan(values)]
    if not len(defined) or len(defined) < LEAST_DEFINED * len(values):
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
