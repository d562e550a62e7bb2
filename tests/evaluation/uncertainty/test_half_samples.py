"""Intervals from half samples: exact variance, transforms, degenerate and undefined values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from resnet_tasks.evaluation.uncertainty.half_samples import (
    DISTANCE,
    FRACTION,
    compute_interval,
    spread_values,
)


def halves_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of all samples of half of the values."""
    chosen = combinations(range(len(values)), len(values) // 2)
    return np.array([values[list(indices)].mean() for indices in chosen])


@pytest.mark.parametrize("number", [10, 11])
def test_spread_of_a_mean_has_its_standard_error(number: int) -> None:
    """All halves of a few numbers: the deviation is s / sqrt(n), for odd n too."""
    values = np.random.default_rng(number).normal(size=number)
    spread = spread_values(halves_of(values), float(values.mean()), number, widening=1)
    error = values.std(ddof=1) / np.sqrt(number)
    ratio = stats.t.ppf(0.975, number - 1) / stats.norm.ppf(0.975)
    assert spread.std() == pytest.approx(ratio * error, rel=1e-12)
    assert spread.mean() == pytest.approx(values.mean())


def test_few_units_widen_the_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.01, 1000)
    widths = [np.ptp(spread_values(values, 0.5, number)) for number in (10, 40, 10_000)]
    assert widths[0] > 1.1 * widths[1] > 1.1 * 1.03 * widths[2]


def test_bias_of_half_the_images_is_subtracted() -> None:
    """A bias of 0.2 / n doubles in half samples: a quarter of it is subtracted."""
    values = np.random.default_rng(0).normal(5.04, 0.01, 10_001)
    assert spread_values(values, 5.02, 10).mean() == pytest.approx(5.015, abs=1e-3)


def test_fractions_stay_between_0_and_1_and_distances_above_0() -> None:
    values = np.random.default_rng(0).normal(0.97, 0.012, 1000).clip(0, 1)
    interval = compute_interval(values, 0.97, 30, FRACTION)
    assert interval is not None
    assert 0 < interval[0] < 0.95
    assert 0.98 < interval[1] <= 1
    assert 0.97 - interval[0] > interval[1] - 0.97  # skewed, unlike the values
    far = compute_interval((values - values.min()) / 10, 0.003, 30, DISTANCE)
    assert far is not None
    assert far[0] == 0


def test_values_outside_0_and_1_have_no_limits() -> None:
    values = np.linspace(-0.5, 0.5, 101)
    interval = compute_interval(values, 0.0, 1000, FRACTION)
    assert interval is not None
    assert interval[0] == pytest.approx(-interval[1])
    assert interval[0] < -0.47


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_values_are_the_interval(value: float) -> None:
    assert compute_interval(np.full(100, value), value, 10, FRACTION) == (value, value)


def test_a_value_of_1_on_all_images_but_one() -> None:
    """Half of the samples contain the image: the interval reaches 1 and below the mean."""
    values = np.repeat((1.0, 0.98), 500)
    interval = compute_interval(values, 0.99, 100, FRACTION)
    assert interval is not None
    assert interval[0] < 0.98
    assert 0.99 < interval[1] <= 1


def test_undefined_half_samples_are_ignored_while_they_are_few() -> None:
    values = np.random.default_rng(0).uniform(0.4, 0.6, 1000)
    values[:50] = np.nan
    assert compute_interval(values, 0.5, 100, FRACTION) == compute_interval(
        values[50:], 0.5, 100, FRACTION
    )
    values[50] = np.nan
    assert compute_interval(values, 0.5, 100, FRACTION) is None
    assert compute_interval(np.full(10, np.nan), 0.5, 100) is None
    assert compute_interval(np.zeros(0), 0.5, 100) is None
