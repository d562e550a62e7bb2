"""Methods for 95 % intervals of a metric, computed from the same resampled values.

Sources: percentile bootstrap and jackknife: Efron and Tibshirani, An Introduction to the Bootstrap,
1993; BCa: Efron, Better Bootstrap Confidence Intervals, JASA 1987; m out of n: Bickel, Goetze and
van Zwet, Resampling Fewer Than n Observations, Statistica Sinica 1997; subsamples: Politis and
Romano, Annals of Statistics 1994; half samples: Shao and Wu, Annals of Statistics 1989.

Shape glossary: `R` resampled datasets, `U` images, `G` groups of images, `M` metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import scipy
from numpy.typing import NDArray

from benchmarks.harness.simulated_evaluations import SimulatedEvaluation
from resnet_tasks.evaluation.uncertainty.half_samples import (
    FRACTION,
    compute_percentiles,
    spread_values,
)

Floats = NDArray[np.float64]
Interval = tuple[float, float]
TAILS = np.array((0.025, 0.975))
NUM_GROUPS = 100
"""Maximum number of groups of the jackknife; of fewer images, each is a group."""
NUM_STUDENTIZED, NUM_NESTED_GROUPS = 100, 10
"""Number of bootstrap datasets whose standard error is computed, and number of its groups."""
MAX_STUDENTIZED_IMAGES = 200
"""Maximum number of images for the studentized bootstrap, which costs most."""


@dataclass(frozen=True)
class Draws:
    """One metric (or `M` metrics, in further columns) on resampled datasets.

    Attributes:
        estimate: Value on the dataset itself.
        bootstrap: `(R,)`, all images drawn with replacement.
        smaller: `(R,)`, half as many images drawn with replacement.
        halves: `(R,)`, half of the images drawn without replacement.
        quarters: `(R,)`, a quarter of the images drawn without replacement.
        groups: `(G,)`, all images but those of one group.
        nested: `(S, 1 + N)`, bootstrap datasets, and each of them without one of `N` groups of its
            images; `S` is 0 for many images.
    """

    estimate: Floats
    bootstrap: Floats
    smaller: Floats
    halves: Floats
    quarters: Floats
    groups: Floats
    nested: Floats

    def select(self, column: int) -> Draws:
        """Return the values of one metric."""
        return Draws(*(getattr(self, field.name)[..., column] for field in fields(self)))


def draw(
    evaluation: SimulatedEvaluation, rng: np.random.Generator, num_images: int, resamples: int
) -> Draws:
    """Compute all metrics on resampled datasets of every kind."""
    group = np.arange(num_images) % min(num_images, NUM_GROUPS)
    counts = (
        rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples),
        rng.multinomial(num_images // 2, np.full(num_images, 1 / num_images), size=resamples),
        draw_without_replacement(rng, num_images, num_images // 2, resamples),
        draw_without_replacement(rng, num_images, num_images // 4, resamples),
        group != np.arange(group.max() + 1)[:, None],
        _draw_nested(rng, num_images),
    )
    weights = np.concatenate((np.ones((1, num_images)), *counts)).T.astype(np.float32)
    values = evaluation.resample(np.ascontiguousarray(weights))
    parts = np.split(values, np.cumsum([1, *(len(part) for part in counts)][:-1]))
    nested = parts[-1].reshape(-1, 1 + NUM_NESTED_GROUPS, values.shape[1])
    bootstrap, smaller, halves, quarters, groups = parts[1:-1]
    return Draws(parts[0][0], bootstrap, smaller, halves, quarters, groups, nested)


def _draw_nested(rng: np.random.Generator, num_images: int) -> NDArray[np.int64]:
    """Draw bootstrap datasets, each followed by its versions without one group of images."""
    if num_images > MAX_STUDENTIZED_IMAGES:
        return np.zeros((0, num_images), np.int64)
    images = rng.integers(0, num_images, size=(NUM_STUDENTIZED, num_images))
    # Groups consist of drawn images, so that copies of an image may be in several groups.
    group = np.arange(num_images) % NUM_NESTED_GROUPS
    counts = [
        np.bincount(row[group != left_out], minlength=num_images)
        for row in images
        for left_out in range(-1, NUM_NESTED_GROUPS)
    ]
    return np.stack(counts)


def draw_without_replacement(
    rng: np.random.Generator, num_images: int, num_drawn: int, resamples: int
) -> NDArray[np.bool_]:
    """Draw `num_drawn` of the images `resamples` times; True where an image was drawn."""
    keys = rng.random((resamples, num_images))
    return keys < np.partition(keys, num_drawn, axis=1)[:, num_drawn, None]


def _to_log_odds(values: Floats | np.float64, margin: float) -> Floats:
    odds: Floats = np.log((values + margin) / (1 - values + margin))
    return odds


def _from_log_odds(values: Floats, margin: float) -> Floats:
    odds = np.exp(values)
    return np.asarray(np.clip((odds * (1 + margin) - margin) / (1 + odds), 0, 1))


def _percentile(draws: Draws) -> Floats:
    return np.asarray(np.nanquantile(draws.bootstrap, TAILS))


def _bias_corrected_accelerated(draws: Draws) -> Floats:
    values = draws.bootstrap[~np.isnan(draws.bootstrap)]
    below = (values < draws.estimate).mean() + 0.5 * (values == draws.estimate).mean()
    correction = scipy.stats.norm.ppf(np.clip(below, 1e-3, 1 - 1e-3))
    deviations = np.nanmean(draws.groups) - draws.groups[~np.isnan(draws.groups)]
    skewness = (deviations**3).sum() / max((deviations**2).sum(), 1e-20) ** 1.5
    shifted = correction + scipy.stats.norm.ppf(TAILS)
    levels = scipy.stats.norm.cdf(correction + shifted / (1 - skewness / 6 * shifted))
    return np.asarray(np.quantile(values, levels))


def _jackknife(draws: Draws, num_images: int, *, is_log_odds: bool = False) -> Floats:
    margin, values, center = 0.5 / num_images, draws.groups, np.float64(draws.estimate)
    if is_log_odds:
        values, center = _to_log_odds(values, margin), np.float64(_to_log_odds(center, margin))
    values = values[~np.isnan(values)]
    number = len(values)
    error = math.sqrt((number - 1) * values.var())
    bias = (number - 1) * (values.mean() - center)
    ends = np.asarray(center - bias + error * scipy.stats.t.ppf(TAILS, number - 1))
    return _from_log_odds(ends, margin) if is_log_odds else ends


def _studentized(draws: Draws) -> Floats:
    if not len(draws.nested):
        return np.full(2, np.nan)
    values, left_out = draws.nested[:, 0], draws.nested[:, 1:]
    is_defined = ~np.isnan(draws.nested).any(axis=1)
    errors = np.sqrt((NUM_NESTED_GROUPS - 1) * left_out.var(axis=1))
    is_defined &= errors > 0
    if not is_defined.any():
        return np.full(2, np.nan)
    deviations = (values - draws.estimate)[is_defined] / errors[is_defined]
    groups = draws.groups[~np.isnan(draws.groups)]
    error = math.sqrt((len(groups) - 1) * groups.var())
    return np.asarray(draws.estimate - error * np.quantile(deviations, TAILS[::-1]))


def _subsample(values: Floats, draws: Draws, factor: float) -> Floats:
    """Return the interval from the deviations of smaller datasets, which are scaled down."""
    deviations = np.nanquantile(values - draws.estimate, TAILS[::-1])
    return np.asarray(draws.estimate - factor * deviations)


def _half_samples(
    draws: Draws,
    num_images: int,
    *,
    bias: str = "halves",
    is_normal: bool = False,
    is_log_odds: bool = True,
) -> Floats:
    """Return a variant of the interval from half samples.

    Args:
        draws: Values of one metric.
        num_images: Number of images.
        bias: Samples whose mean difference from the estimate is subtracted as its bias: `halves`
            once, `quarters` 0.7 times, or `none`.
        is_normal: Whether the ends are those of a normal distribution.
        is_log_odds: Whether the interval is computed on the scale of log odds.
    """
    margin = 0.5 / num_images
    values, quarters = (part[~np.isnan(part)] for part in (draws.halves, draws.quarters))
    center = np.float64(draws.estimate)
    if is_log_odds:
        values, quarters = _to_log_odds(values, margin), _to_log_odds(quarters, margin)
        center = np.float64(_to_log_odds(center, margin))
    factor = scipy.stats.t.ppf(TAILS[1], num_images - 1)
    ends = np.array((-1, 1)) * values.std()
    if not is_normal:
        ends = (np.quantile(values, TAILS) - values.mean()) / scipy.stats.norm.ppf(TAILS[1])
    shifts = {
        "halves": values.mean() - center,
        "quarters": 0.7 * (quarters.mean() - center),
        "none": 0.0,
    }
    ends = center - shifts[bias] + factor * ends
    return _from_log_odds(ends, margin) if is_log_odds else np.asarray(ends)


def _package(draws: Draws, num_images: int) -> Floats:
    spread = spread_values(draws.halves, float(draws.estimate), num_images, FRACTION)
    return np.asarray(compute_percentiles(spread[~np.isnan(spread)]))


Method = Callable[[Draws, int], Floats]
METHODS: Mapping[str, Method] = {
    "percentile bootstrap": lambda draws, _: _percentile(draws),
    "BCa": lambda draws, _: _bias_corrected_accelerated(draws),
    "studentized": lambda draws, _: _studentized(draws),
    "m out of n, m = n/2": lambda draws, _: _subsample(draws.smaller, draws, math.sqrt(0.5)),
    "subsamples of n/4": lambda draws, _: _subsample(draws.quarters, draws, math.sqrt(1 / 3)),
    "jackknife": _jackknife,
    "jackknife, log odds": lambda draws, n: _jackknife(draws, n, is_log_odds=True),
    "half samples, no transform": lambda draws, n: _half_samples(draws, n, is_log_odds=False),
    "half samples, log odds": _half_samples,
    "half samples, normal": lambda draws, n: _half_samples(draws, n, is_normal=True),
    "half samples, bias of quarters": (
        lambda draws, n: _half_samples(draws, n, bias="quarters", is_normal=True)
    ),
    "half samples, bias not subtracted": lambda draws, n: _half_samples(draws, n, bias="none"),
    "this package": _package,
}
