"""Metrics by subgroup by hand, their order, and the warning about subgroups far below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.evaluation.subgroups.compute import HeadEvaluation, compute_subgroup_metrics
from resnet_tasks.evaluation.subgroups.difference import compute_half_width
from resnet_tasks.evaluation.subgroups.divide import ImageDivision
from resnet_tasks.evaluation.subgroups.results import SubgroupMetrics
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap
from resnet_tasks.structures.evaluation import Metric


class MeanEvaluator:
    """Evaluator whose metric is the mean of one value per image, NaN for images without one."""

    protocol = "mean"

    def __init__(self, values: Mapping[int, float], template: Metric) -> None:
        self.image_ids = tuple(values)
        self._values = np.asarray(list(values.values()))
        self._template = template

    def compute(self) -> dict[str, Metric]:
        value = float(np.nanmean(self._values))
        return {"Dice": replace(self._template, value=value), "other": Metric(value)}

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        weights = counts * ~np.isnan(self._values)
        with np.errstate(invalid="ignore"):
            means = (weights @ np.nan_to_num(self._values)) / weights.sum(axis=1)
        return {"Dice": means}


class PlainEvaluator:
    """Evaluator that cannot be resampled."""


def evaluate(
    values: Mapping[str, list[float]],
    *,
    template: Metric = Metric(None),  # noqa: B008  # frozen
    bootstrap: Bootstrap = Bootstrap(300),  # noqa: B008  # frozen
    groups: Mapping[int | str, str] | None = None,
) -> SubgroupMetrics:
    """Evaluate subgroups, each with its values per image."""
    names = [name for name, column in values.items() for _ in column]
    flat = [value for column in values.values() for value in column]
    evaluator: Any = MeanEvaluator(dict(enumerate(flat)), template)
    head = HeadEvaluation("cells", (evaluator,), evaluator.compute())
    division = ImageDivision("stain", dict(enumerate(names)), ("a note",))
    return compute_subgroup_metrics([head], [division], groups or {}, bootstrap)


def alternate(mean: float, spread: float, number: int) -> list[float]:
    return [mean + spread * (-1) ** i for i in range(number)]


def test_values_and_differences_by_hand() -> None:
    found = evaluate({"A": [0.9, 0.7], "B": [0.2, 0.4, 0.6], "C": [1.0]})
    assert [(r.name, r.images) for r in found.results] == [("B", 3), ("A", 2), ("C", 1)]
    assert [r.main.value for r in found.results] == pytest.approx([0.4, 0.8, 1.0])
    # B against (0.9 + 0.7 + 1) / 3, A against (0.2 + 0.4 + 0.6 + 1) / 4, C against 2.8 / 5
    comparisons = [r.comparison for r in found.results]
    assert [c.rest for c in comparisons if c] == pytest.approx([2.6 / 3, 0.55, 0.56])
    assert [c.difference for c in comparisons if c] == pytest.approx([0.4 - 2.6 / 3, 0.25, 0.44])
    assert all(c is not None and c.interval is None for c in comparisons)
    assert found.warnings == ()
    assert found.notes == (
        "a note",
        "3 subgroups have no interval: fewer than 10 images or groups, or no value",
    )


def test_a_subgroup_far_below_is_a_warning() -> None:
    found = evaluate({"fluorescence": alternate(0.9, 0.05, 60), "tissue": alternate(0.7, 0.1, 30)})
    worst, best = found.results
    assert (worst.name, best.name) == ("tissue", "fluorescence")
    assert worst.comparison is not None
    assert worst.comparison.is_far_below
    assert best.comparison is not None
    assert not best.comparison.is_far_below
    # Standard errors of means: 0.1 / sqrt(30) and 0.05 / sqrt(60); two comparisons.
    assert worst.comparison.errors is not None
    errors = [(error.value, error.units) for error in worst.comparison.errors]
    assert errors[0] == (pytest.approx(0.1 / 30**0.5, rel=0.1), 30)
    assert errors[1] == (pytest.approx(0.05 / 60**0.5, rel=0.1), 60)
    half = compute_half_width(*worst.comparison.errors, 0.975)
    assert worst.comparison.value == pytest.approx(0.7)
    assert worst.comparison.rest == pytest.approx(0.9, abs=0.002)  # of random 30 of the 60 images
    middle = worst.comparison.difference
    assert worst.comparison.interval == pytest.approx((middle - half, middle + half))
    assert best.comparison.rest == pytest.approx(0.7)
    assert best.comparison.value == worst.comparison.rest
    assert len(found.warnings) == 1
    assert found.warnings[0].startswith(
        "stain 'tissue' (30 images) lies far below the other images: cells/Dice 0.700 against "
        "0.900 on equally many images, a difference of -0.200 [-0.2"
    )
    assert worst.main.interval is not None
    assert worst.main.interval[0] < 0.7 < worst.main.interval[1]


@pytest.mark.parametrize("number", [10, 11, 21, 101])
def test_standard_error_of_a_mean(number: int) -> None:
    """Its square is the variance between images divided by their number, also of an odd number."""
    values = np.random.default_rng(number).normal(0.7, 0.1, number)
    found = evaluate(
        {"A": values.tolist(), "B": alternate(0.7, 0.1, 10)}, bootstrap=Bootstrap(20_000)
    )
    comparison = next(result.comparison for result in found.results if result.name == "A")
    assert comparison is not None
    assert comparison.errors is not None
    error = comparison.errors[0]
    # The variance of 20,000 normal values has a relative standard error of sqrt(2 / 20,000) = 1 %.
    assert error.value**2 / (values.var(ddof=1) / number) == pytest.approx(1, abs=0.03)
    assert error.unit_variance / values.var(ddof=1) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("low", "number", "expected"),
    [
        (alternate(0.86, 0.01, 40), 60, False),  # a clear difference, but only 0.04
        (alternate(0.80, 0.45, 40), 60, False),  # 0.1 is within the error
        (alternate(0.70, 0.01, 9), 60, False),  # too few images
        (alternate(0.70, 0.01, 40), 9, False),  # too few others
        (alternate(0.70, 0.01, 10), 10, True),
    ],
)
def test_rule(low: list[float], number: int, expected: bool) -> None:
    found = evaluate({"low": low, "rest": alternate(0.9, 0.01, number)})
    assert bool(found.warnings) is expected


def test_few_patients_are_too_few() -> None:
    values = {"low": alternate(0.7, 0.01, 60), "rest": alternate(0.9, 0.01, 60)}
    patients = {i: f"p{i // 10}" for i in range(120)}  # 6 patients on each side
    assert evaluate(values).warnings
    assert not evaluate(values, groups=patients).warnings


def test_lower_is_better_and_units() -> None:
    distance = Metric(None, unit="mm", lower_is_better=True)
    far, near = alternate(5.0, 0.5, 40), alternate(4.0, 0.5, 40)
    found = evaluate({"near": near, "far": far}, template=distance)
    assert [result.name for result in found.results] == ["far", "near"]
    assert "lies far above the other images: cells/Dice 5.000 mm against 4.000 mm" in "".join(
        found.warnings
    )
    # 0.1 of 4 mm is less than 5 %.
    close = evaluate({"near": near, "far": alternate(4.1, 0.01, 40)}, template=distance)
    assert not close.warnings


def test_without_intervals_there_are_values_only() -> None:
    found = evaluate(
        {"A": alternate(0.5, 0, 30), "B": alternate(0.9, 0, 30)}, bootstrap=Bootstrap(0)
    )
    assert [result.main.interval for result in found.results] == [None, None]
    assert found.warnings == ()
    assert found.notes == ("a note",)


def test_undefined_and_single_subgroups() -> None:
    found = evaluate({"empty": [float("nan")] * 30, "A": alternate(0.5, 0.1, 30)})
    assert [(r.name, r.main.value) for r in found.results] == [
        ("A", pytest.approx(0.5)),
        ("empty", None),
    ]
    assert [result.comparison for result in found.results] == [None, None]
    single = evaluate({"A": alternate(0.5, 0.1, 30)})
    assert single.results[0].comparison is None


def test_evaluators_without_resampling_are_named() -> None:
    plain: Any = PlainEvaluator()
    head = HeadEvaluation("cells", (plain,), {"Dice": Metric(0.5)})
    found = compute_subgroup_metrics([head], [ImageDivision("v", {})], {}, Bootstrap(10))
    assert found.results == ()
    assert found.notes == (
        "cells: no metrics of PlainEvaluator by subgroup, because it does not support resampling",
    )


def test_json() -> None:
    found = evaluate({"low": alternate(0.7, 0.01, 20), "rest": alternate(0.9, 0.01, 20)})
    plain = found.to_json()
    assert plain["rule"] == {
        "least_images": 10,
        "least_difference": 0.05,
        "level": 0.95,
        "comparisons": 2,
    }
    assert len(plain["warnings"]) == 1
    first = plain["results"][0]
    assert (first["key"], first["subgroup"], first["head"]) == ("stain", "low", "cells")
    assert first["images"] == 20
    assert first["main_metric"] == "Dice"
    assert first["metrics"]["Dice"]["value"] == pytest.approx(0.7)
    assert first["comparison"]["rest"] == pytest.approx(0.9)
    assert first["comparison"]["is_far_below"] is True


class MaximumEvaluator(MeanEvaluator):
    """Evaluator whose metric grows with the number of images: the highest value."""

    def compute(self) -> dict[str, Metric]:
        return {"Dice": Metric(float(self._values.max()))}

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        return {"Dice": np.where(counts > 0, self._values, -np.inf).max(axis=1)}


def test_sides_are_compared_on_equally_many_images() -> None:
    """More values have a higher maximum; that is no difference between the images."""
    values = np.concatenate([np.linspace(0.05, 0.95, 20), np.arange(1, 301) / 300])
    evaluator: Any = MaximumEvaluator(dict(enumerate(values.tolist())), Metric(None))
    names = {i: "small" if i < 20 else "large" for i in range(320)}
    head = HeadEvaluation("h", (evaluator,), evaluator.compute())
    division = ImageDivision("v", names)
    found = compute_subgroup_metrics([head], [division], {}, Bootstrap(200))
    by_name = {result.name: result for result in found.results}
    comparisons = [by_name[name].comparison for name in ("small", "large")]
    assert comparisons[0] is not None
    assert comparisons[1] is not None
    # The highest of 20 of the numbers 1 to 300 is 301 * 20 / 21 in the mean.
    assert comparisons[0].rest == pytest.approx(301 * 20 / 21 / 300, abs=0.01)
    assert comparisons[0].value == 0.95
    assert comparisons[1].value == comparisons[0].rest
    assert comparisons[1].rest == 0.95
    assert found.warnings == ()
