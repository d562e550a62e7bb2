"""Computation of metrics by subgroup of the images, from the matches of one evaluation.

A subgroup is the same evaluation in which all other images count 0 times. Each one is compared with
all other images by the main metric of the head. It lies far below them if

- both sides have at least `LEAST_UNITS` images (or groups of images), as for intervals,
- the difference is at least `LEAST_GAP`, and
- the interval of the difference excludes 0. The level of 95 % holds for all comparisons of an
  evaluation together (Bonferroni), because the worst of many subgroups is low by chance, too.

Both sides are evaluated on equally many images, because AP and means over classes are too high on
few. The interval is that of independent samples. If images of one patient are on both sides, the
true error is smaller, and the rule warns less often than it could.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.subgroups.difference import StandardError, compute_half_width
from resnet_tasks.evaluation.subgroups.divide import ImageDivision
from resnet_tasks.evaluation.subgroups.image_subset import ImageSubset, find_positions
from resnet_tasks.evaluation.subgroups.results import (
    LEAST_GAP,
    RestComparison,
    SubgroupMetrics,
    SubgroupResult,
    count_comparisons,
)
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    COUNTS_AT_ONCE,
    LEAST_UNITS,
    Bootstrap,
    ResamplingUnits,
    attach_intervals,
    resample_metrics,
)
from resnet_tasks.evaluation.uncertainty.half_samples import LEAST_DEFINED, LEVEL
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import (
    Evaluator,
    Metric,
    ResamplableEvaluator,
    select_headline,
)

RESAMPLES_OF_ERROR = 200
"""Maximum number of half samples of all other images: a standard error needs far fewer than an
interval. For normal values, it is exact to 1 / sqrt(2 * 200) = 5 %."""
NUM_PARTS = 200
"""Number of random parts of the larger side of a comparison. Their mean differs from that of all
parts by at most 7 % of the standard error."""

Id = int | str


@dataclass(frozen=True)
class HeadEvaluation:
    """Evaluated images of one head.

    Attributes:
        name: Name of the head; empty for a results file.
        evaluators: Evaluators with all images.
        metrics: Metric name -> metric of all images.
    """

    name: str
    evaluators: Sequence[Evaluator]
    metrics: Mapping[str, Metric]

    @property
    def main_metric(self) -> str:
        """Metric by which subgroups are compared; empty if there is none that can be resampled."""
        return next(iter(select_headline(self.metrics)), "")


@dataclass(frozen=True)
class _Sampler:
    """Computation of intervals and standard errors.

    Attributes:
        groups: Image id -> patient, study or sequence, which is drawn as a whole.
        bootstrap: Options of the intervals.
    """

    groups: Mapping[Id, str]
    bootstrap: Bootstrap

    def compute(
        self, subset: ImageSubset, name: str
    ) -> tuple[dict[str, Metric], StandardError | None]:
        """Compute the metrics of a subset with intervals, and the standard error of one of them."""
        metrics = subset.compute()
        units = ResamplingUnits.from_image_ids(subset.image_ids, self.groups)
        if units.number < LEAST_UNITS or not self.bootstrap.resamples:
            return metrics, None
        values = resample_metrics(subset, units, self.bootstrap)
        return attach_intervals(metrics, values, units.number), _compute_error(
            values.get(name), units
        )

    def compare(
        self,
        subset: ImageSubset,
        metric: Metric,
        error: StandardError | None,
        rest: ImageSubset,
        name: str,
    ) -> RestComparison | None:
        """Compare a metric of a subgroup with that of all other images.

        With few objects, AP and means over classes are too high. Therefore the larger side is
        evaluated on random parts that have as many images (or groups) as the smaller side.

        Args:
            subset: Subgroup.
            metric: Metric of the subgroup.
            error: Standard error of the metric; None if the subgroup is too small for it.
            rest: All other images.
            name: Name of the metric.
        """
        other = rest.compute().get(name)
        if metric.value is None or other is None or other.value is None:
            return None
        comparison = RestComparison(metric.value, other.value)
        if error is None:
            return comparison
        units = ResamplingUnits.from_image_ids(rest.image_ids, self.groups)
        resamples = min(self.bootstrap.resamples, RESAMPLES_OF_ERROR)
        values = resample_metrics(rest, units, replace(self.bootstrap, resamples=resamples))
        rest_error = _compute_error(values.get(name), units)
        if rest_error is None:
            return comparison
        own_units = ResamplingUnits.from_image_ids(subset.image_ids, self.groups)
        if own_units.number < units.number:
            matched_value = self._evaluate_smaller(rest, units, own_units.number, name)
            comparison = RestComparison(metric.value, matched_value)
        elif own_units.number > units.number:
            matched_value = self._evaluate_smaller(subset, own_units, units.number, name)
            comparison = RestComparison(matched_value, other.value)
        return replace(comparison, errors=(error, rest_error))

    def _evaluate_smaller(
        self, subset: ImageSubset, units: ResamplingUnits, number: int, name: str
    ) -> float:
        """Return the mean of a metric on random parts of a subset.

        Args:
            subset: Images to draw from.
            units: Units of the subset.
            number: Number of units of each part, at least `LEAST_UNITS`.
            name: Name of the metric.
        """
        rng = np.random.default_rng(self.bootstrap.seed)
        at_once = max(1, COUNTS_AT_ONCE // len(units.image_units))
        values = []
        for start in range(0, NUM_PARTS, at_once):
            keys = rng.random((min(at_once, NUM_PARTS - start), units.number))
            limits = np.partition(keys, number - 1, axis=1)[:, number - 1, None]
            counts = (keys <= limits).astype(np.int64)[:, units.image_units]
            values.append(subset.resample(counts)[name])
        return float(np.nanmean(np.concatenate(values)))


def compute_subgroup_metrics(
    heads: Sequence[HeadEvaluation],
    divisions: Sequence[ImageDivision],
    groups: Mapping[Id, str],
    bootstrap: Bootstrap,
) -> SubgroupMetrics:
    """Compute the metrics of every subgroup, and compare it with all other images.

    Args:
        heads: Evaluated heads.
        divisions: Divisions of the images.
        groups: Image id -> patient, study or sequence, which is drawn as a whole.
        bootstrap: Options of the intervals.
    """
    sampler = _Sampler(groups, bootstrap)
    results = [
        result
        for division in divisions
        for head in heads
        for result in _compute_division(head, division, sampler)
    ]
    notes = [note for division in divisions for note in division.notes]
    notes += [note for head in heads for note in _describe_missing(head)]
    if bootstrap.resamples:
        notes += _describe_small(results)
    return SubgroupMetrics(_correct_comparisons(tuple(results)), tuple(dict.fromkeys(notes)))


def _compute_division(
    head: HeadEvaluation, division: ImageDivision, sampler: _Sampler
) -> list[SubgroupResult]:
    """Compute the results of one head and one division, the worst subgroup first."""
    main, results = head.main_metric, dict[str, SubgroupResult]()
    for evaluator in head.evaluators:
        if not isinstance(evaluator, ResamplableEvaluator):
            continue
        positions = find_positions(evaluator.image_ids, division.subgroups)
        everything = np.arange(len(evaluator.image_ids))
        for name, rows in positions.items():
            subset = ImageSubset(evaluator, head.metrics, rows)
            metrics, error = sampler.compute(subset, main)
            comparison = None
            if main in metrics and len(positions) > 1:
                rest = ImageSubset(evaluator, head.metrics, np.setdiff1d(everything, rows))
                comparison = sampler.compare(subset, metrics[main], error, rest, main)
            result = results.get(name) or SubgroupResult(
                division.key, name, head.name, len(rows), main, {}
            )
            results[name] = replace(
                result,
                images=max(result.images, len(rows)),
                metrics={**result.metrics, **metrics},
                comparison=comparison or result.comparison,
            )
    complete = [result for result in results.values() if main in result.metrics]
    return sorted(complete, key=lambda result: result.rank)


def _compute_error(
    values: NDArray[np.float64] | None, units: ResamplingUnits
) -> StandardError | None:
    """Compute the standard error from values of half samples; None if the data does not suffice.

    Half samples of m of n units vary by sqrt((n - m) / m) times as much as datasets of n units.
    """
    if values is None or units.number < LEAST_UNITS:
        return None
    defined = values[~np.isnan(values)]
    if len(defined) < max(2, LEAST_DEFINED * len(values)):
        return None
    num_sampled = units.number // 2
    factor = math.sqrt(num_sampled / (units.number - num_sampled))
    return StandardError(factor * float(defined.std(ddof=1)), units.number)


def _correct_comparisons(results: tuple[SubgroupResult, ...]) -> tuple[SubgroupResult, ...]:
    """Add the intervals of the differences, and find the subgroups that lie far below."""
    number = count_comparisons(results)
    if not number:
        return results
    level = 1 - (1 - LEVEL) / number
    return tuple(
        replace(result, comparison=_complete_comparison(result, result.comparison, level))
        if result.comparison is not None
        else result
        for result in results
    )


def _complete_comparison(
    result: SubgroupResult, comparison: RestComparison, level: float
) -> RestComparison:
    if comparison.errors is None:
        return comparison
    half = compute_half_width(*comparison.errors, level)
    gap = comparison.difference if result.main.lower_is_better else -comparison.difference
    least = LEAST_GAP * (abs(comparison.rest) if result.main.unit else 1.0)
    return replace(
        comparison,
        interval=(comparison.difference - half, comparison.difference + half),
        is_far_below=gap >= least and gap > half,
    )


def _describe_missing(head: HeadEvaluation) -> list[str]:
    """Return a note for every evaluator without metrics by subgroup."""
    prefix = f"{head.name}: " if head.name else ""
    return [
        f"{prefix}no metrics of {type(evaluator).__name__} by subgroup, because it does not "
        "support resampling"
        for evaluator in head.evaluators
        if not isinstance(evaluator, ResamplableEvaluator)
    ]


def _describe_small(results: Sequence[SubgroupResult]) -> list[str]:
    """Return a note on the subgroups that are too small for intervals."""
    small = {(result.key, result.name) for result in results if result.main.interval is None}
    if not small:
        return []
    reason = f"fewer than {LEAST_UNITS} images or groups, or no value"
    return [f"{Count(len(small)):subgroup has} no interval: {reason}"]
