"""Cells of a comparison: scores, their differences from the first run, and intervals of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.uncertainty.paired_test import MetricDifference, compare_evaluations
from resnet_tasks.report.run_view import EvaluationView, Interval, Score
from resnet_tasks.runs.paired_comparison import SavedEvaluation


@dataclass(frozen=True)
class ComparisonCell:
    """Score of one run and its difference from the first run.

    Attributes:
        score: Score; None if the run has no such metric.
        difference: Score minus that of the first run; None for the first run, and if either score
            is missing.
        interval: 95 % interval of the difference; None if it cannot be computed.
        better: Whether the difference is an improvement; None if its interval contains 0 or is
            unknown, so that the difference may be chance.
    """

    score: Score | None
    difference: float | None = None
    interval: Interval | None = None
    better: bool | None = None


@dataclass(frozen=True)
class PairedIntervals:
    """Intervals of the differences between one run and the first run.

    Attributes:
        intervals: `head/metric` and `head/metric/class` -> 95 % interval of the difference.
        problem: Reason why there are no intervals; empty if there are some.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    problem: str = ""


def compute_paired_intervals(
    first: EvaluationView | None, other: EvaluationView | None
) -> PairedIntervals:
    """Compute the intervals of `other - first` from the stored resamples of both evaluations."""
    if first is None or other is None:
        return PairedIntervals()
    try:
        saved, other_saved = (SavedEvaluation.read(view.folder) for view in (first, other))
        if saved.resampling is None or other_saved.resampling is None:
            raise DataError("an evaluation has no resamples.npz; evaluate the run again")
        comparison = compare_evaluations(
            (other_saved.metrics, other_saved.resampling), (saved.metrics, saved.resampling)
        )
    except (DataError, RunError) as error:
        return PairedIntervals(problem=str(error))
    intervals: dict[str, Interval] = {}
    for name, difference in comparison.differences.items():
        entries: dict[str, MetricDifference] = {name: difference}
        entries |= {f"{name}/{label}": part for label, part in difference.per_class.items()}
        intervals |= {key: part.interval for key, part in entries.items() if part.interval}
    return PairedIntervals(intervals)


def build_cells(
    key: str,
    scores: Sequence[Score | None],
    paired: Sequence[PairedIntervals],
    *,
    lower_is_better: bool,
) -> tuple[ComparisonCell, ...]:
    """Return the cells of one row.

    Args:
        key: `head/metric` or `head/metric/class`.
        scores: Score of every run; None if the run has no such metric.
        paired: Intervals of the differences of every run except the first.
        lower_is_better: Whether lower scores are better.
    """
    first = scores[0].value if scores[0] is not None else None
    cells = [ComparisonCell(scores[0])]
    for score, run_intervals in zip(scores[1:], paired, strict=True):
        if score is None or score.value is None or first is None:
            cells.append(ComparisonCell(score))
            continue
        interval = run_intervals.intervals.get(key)
        better = None
        if interval is not None and not interval[0] <= 0 <= interval[1]:
            better = (interval[1] < 0) == lower_is_better
        cells.append(ComparisonCell(score, score.value - first, interval, better))
    return tuple(cells)
