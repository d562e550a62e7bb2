"""Intervals of differences: equal to SciPy's tests, and careful with samples that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from resnet_tasks.evaluation.subgroups.difference import StandardError, compute_half_width


def estimate(values: NDArray[np.float64]) -> StandardError:
    """Return the standard error of the mean."""
    return StandardError(float(values.std(ddof=1) / len(values) ** 0.5), len(values))


@pytest.mark.parametrize(("spreads", "equal_var"), [((3.0, 0.5), False), ((0.5, 3.0), True)])
def test_equals_the_wider_test(spreads: tuple[float, float], equal_var: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, spreads[0], 12), rng.normal(0, spreads[1], 70)
    interval = stats.ttest_ind(first, second, equal_var=equal_var).confidence_interval(0.99)
    other = stats.ttest_ind(first, second, equal_var=not equal_var).confidence_interval(0.99)
    half = compute_half_width(estimate(first), estimate(second), 0.99)
    assert half == pytest.approx((interval.high - interval.low) / 2)
    assert half > (other.high - other.low) / 2


def test_ten_equal_images_do_not_give_a_narrow_interval() -> None:
    perfect, others = np.ones(10), np.asarray([0.0] * 10 + [1.0] * 180)
    half = compute_half_width(estimate(perfect), estimate(others), 0.95)
    assert half == pytest.approx(1.96 * (9.47 / 188 * (1 / 10 + 1 / 190)) ** 0.5, rel=0.02)
    assert half > perfect.mean() - others.mean()


def test_without_variance_the_interval_is_a_point() -> None:
    assert compute_half_width(StandardError(0.0, 10), StandardError(0.0, 30), 0.95) == 0.0


@pytest.mark.parametrize("sizes", [(10, 190), (10, 20, 170), (28, 28, 28)])
@pytest.mark.parametrize("kind", ["normal", "skewed", "binary"])
def test_without_a_difference_few_evaluations_find_one(sizes: tuple[int, ...], kind: str) -> None:
    """At most 5 % of evaluations without any difference find one, in any subgroup."""
    rng = np.random.default_rng(1)
    draw = {
        "normal": lambda number: rng.normal(0.8, 0.1, number),
        "skewed": lambda number: rng.beta(2, 0.5, number),
        "binary": lambda number: (rng.random(number) < 0.9) * 1.0,
    }[kind]
    level, found = 1 - 0.05 / len(sizes), 0
    for _ in range(400):
        parts = [draw(size) for size in sizes]
        rests = [np.concatenate(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        found += any(
            abs(part.mean() - rest.mean())
            > compute_half_width(estimate(part), estimate(rest), level)
            for part, rest in zip(parts, rests, strict=True)
        )
    assert found <= 0.05 * 400 + 8  # two standard errors of the simulation
