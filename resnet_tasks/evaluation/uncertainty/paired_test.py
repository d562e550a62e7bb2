"""Paired comparison of two evaluations on the same images, with intervals and p-values.

Both are resampled with the same draws. The difficulty of an image affects both and cancels out, so
the interval of the difference is narrower than the two separate intervals suggest.

Shape glossary: `R` resampled datasets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError, format_list
from resnet_tasks.evaluation.uncertainty.bootstrap import Resampling
from resnet_tasks.evaluation.uncertainty.half_samples import (
    LEVEL,
    compute_percentiles,
    spread_values,
)
from resnet_tasks.structures.evaluation import Metric

PAIRED_WIDENING = 1.0
"""Widening of the intervals of differences; see `half_samples.WIDENING`. Differences are less
skewed than the metrics themselves: without widening, p < 0.05 in about 5 % of the comparisons of
equally good models."""


@dataclass(frozen=True)
class MetricDifference:
    """Difference of one metric between two models on the same images.

    Attributes:
        value: Value of the first model.
        other: Value of the second model.
        interval: 95 % interval of `value - other`; None if it cannot be computed.
        p: Two-sided p-value: probability of a difference at least this large if there is no true
            difference; None without interval.
        per_class: Class name -> difference.
        unit: Unit of the metric; see `Metric`.
        lower_is_better: Whether lower values are better.
    """

    value: float | None
    other: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    per_class: Mapping[str, MetricDifference] = field(default_factory=dict)
    unit: str = ""
    lower_is_better: bool = False

    @property
    def difference(self) -> float | None:
        """`value - other`; None if either is undefined."""
        return None if self.value is None or self.other is None else self.value - self.other

    @property
    def could_be_chance(self) -> bool | None:
        """True if the interval contains 0; None without interval."""
        return None if self.interval is None else self.interval[0] <= 0 <= self.interval[1]

    def to_json(self) -> dict[str, Any]:
        """Convert the difference to plain values."""
        plain: dict[str, Any] = {
            "value": self.value,
            "other": self.other,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "p": self.p,
            "could_be_chance": self.could_be_chance,
        }
        if self.per_class:
            plain["per_class"] = {
                name: difference.to_json() for name, difference in self.per_class.items()
            }
        if self.unit:
            plain["unit"] = self.unit
        if self.lower_is_better:
            plain["lower_is_better"] = True
        return plain


@dataclass(frozen=True)
class PairedComparison:
    """Comparison of all metrics that two evaluations have in common.

    Attributes:
        differences: `head/metric` -> difference.
        not_compared: `head` or `head/metric` -> reason why it is not compared.
        resampling: Resampling of the first evaluation; the draws of both are the same.
    """

    differences: Mapping[str, MetricDifference]
    not_compared: Mapping[str, str]
    resampling: Resampling

    def to_json(self) -> dict[str, Any]:
        """Convert the comparison to plain values."""
        return {
            "method": (
                f"difference on half samples of {self.resampling.unit_name}, the same draws for "
                "both"
            ),
            "level": LEVEL,
            "resamples": self.resampling.bootstrap.resamples,
            "seed": self.resampling.bootstrap.seed,
            "units": self.resampling.units,
            "differences": {
                name: difference.to_json() for name, difference in self.differences.items()
            },
            "not_compared": dict(self.not_compared),
        }


def compare_evaluations(
    first: tuple[Mapping[str, Metric], Resampling],
    second: tuple[Mapping[str, Metric], Resampling],
) -> PairedComparison:
    """Compute the differences between two evaluations.

    Args:
        first: `{"head/metric": Metric}` and resampling of the first model.
        second: `{"head/metric": Metric}` and resampling of the second model, on the same images
            with the same draws.

    Raises:
        DataError: If the draws differ, or no head was evaluated on the same images in both.
    """
    metrics, resampling = first
    other_metrics, other_resampling = second
    if resampling.bootstrap != other_resampling.bootstrap:
        raise DataError(
            f"the evaluations were resampled differently ({resampling.bootstrap} and "
            f"{other_resampling.bootstrap}); evaluate both with the same evaluation.resamples"
        )
    reasons = _find_incomparable_heads(resampling, other_resampling)
    if reasons.keys() >= resampling.digests.keys():
        summary = (
            "; ".join(f"{head}: {reason}" for head, reason in reasons.items())
            or "no head was resampled"
        )
        raise DataError(
            f"the two evaluations cannot be compared ({summary}); evaluate both runs on the same "
            "images"
        )
    shared: dict[str, MetricDifference] = {}
    for name in dict.fromkeys((*metrics, *other_metrics)):
        if name.split("/")[0] in reasons:
            continue
        if name not in metrics or name not in other_metrics:
            reasons[name] = (
                f"only the {'first' if name in metrics else 'second'} evaluation has this metric"
            )
        elif metrics[name].per_class.keys() != other_metrics[name].per_class.keys():
            reasons[name] = _describe_class_differences(
                metrics[name].per_class, other_metrics[name].per_class
            )
        elif resampling.rules.get(name) != other_resampling.rules.get(name):
            rules = [
                evaluation_resampling.rules.get(name, "")
                for evaluation_resampling in (resampling, other_resampling)
            ]
            reasons[name] = f"computed by different rules: {_describe_rule_differences(*rules)}"
        else:
            shared[name] = _compute_difference(name, first, second)
    return PairedComparison(shared, reasons, resampling)


def _describe_class_differences(names: Iterable[str], other_names: Iterable[str]) -> str:
    ours, theirs = list(names), list(other_names)
    parts = {
        "first": [name for name in ours if name not in theirs],
        "second": [name for name in theirs if name not in ours],
    }
    texts = [f"only the {run} has {format_list(own)}" for run, own in parts.items() if own]
    return f"the classes differ: {'; '.join(texts)}"


def _describe_rule_differences(first: str, second: str) -> str:
    """Return the parts of two protocols that differ."""
    parts = [re.split(r"[,;:.]\s+", protocol) for protocol in (first, second)]
    alone = (
        ", ".join(part for part in own_parts if part not in other_parts) or "-"
        for own_parts, other_parts in (parts, parts[::-1])
    )
    return " / ".join(alone)


def _find_incomparable_heads(first: Resampling, second: Resampling) -> dict[str, str]:
    """Return the heads that cannot be compared, with the reasons."""
    reasons = {}
    for head in dict.fromkeys((*first.digests, *second.digests)):
        if head not in first.digests or head not in second.digests:
            reasons[head] = (
                f"only the {'first' if head in first.digests else 'second'} evaluation has this "
                "head"
            )
        elif first.digests[head] != second.digests[head]:
            reasons[head] = "evaluated on different images, or on images in different groups"
    return reasons


def _compute_difference(
    name: str,
    first: tuple[Mapping[str, Metric], Resampling],
    second: tuple[Mapping[str, Metric], Resampling],
) -> MetricDifference:
    metric, other = first[0][name], second[0][name]

    def compare_values(key: str, value: float | None, against: float | None) -> MetricDifference:
        columns = [evaluation[1].values.get(key) for evaluation in (first, second)]
        if value is None or against is None or columns[0] is None or columns[1] is None:
            return MetricDifference(
                value, against, unit=metric.unit, lower_is_better=metric.lower_is_better
            )
        num_units = first[1].count_units(name)
        differences = spread_values(
            columns[0] - columns[1], value - against, num_units, widening=PAIRED_WIDENING
        )
        difference_interval = compute_percentiles(differences)
        p = None if difference_interval is None else two_sided_p(differences)
        return MetricDifference(
            value, against, difference_interval, p, {}, metric.unit, metric.lower_is_better
        )

    overall = compare_values(name, metric.value, other.value)
    by_class = {
        class_name: compare_values(f"{name}/{class_name}", value, other.per_class[class_name])
        for class_name, value in metric.per_class.items()
    }
    return MetricDifference(
        overall.value,
        overall.other,
        overall.interval,
        overall.p,
        by_class,
        metric.unit,
        metric.lower_is_better,
    )


def two_sided_p(differences: NDArray[np.float64]) -> float:
    """Compute the two-sided p-value of spread differences, `(R,)` (see `spread_values`).

    It is twice the smaller of the fractions below and above 0, so that it is below 0.05 where the
    interval excludes 0 (Efron and Tibshirani 1993, chapter 15). One value is added on either side,
    so that p is never 0: with 1,000 resamples it is at least 0.002 (Davison and Hinkley, Bootstrap
    Methods and their Application, 1997, chapter 4).
    """
    defined = differences[~np.isnan(differences)]
    least = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(defined) + 1))
