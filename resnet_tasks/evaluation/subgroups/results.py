"""Metrics of subgroups of the images, and their comparison with all other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnet_tasks.evaluation.metric_tables import metric_to_json
from resnet_tasks.evaluation.subgroups.difference import StandardError
from resnet_tasks.evaluation.uncertainty.bootstrap import LEAST_UNITS
from resnet_tasks.evaluation.uncertainty.half_samples import LEVEL
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import Metric

LEAST_GAP = 0.05
"""Minimum difference for a warning; of metrics with a unit, relative to the value of the others.
Images of two kinds are never equally hard, so that smaller differences are found everywhere if
there are enough images."""


@dataclass(frozen=True)
class RestComparison:
    """Comparison of a subgroup with all other images by the main metric.

    Attributes:
        value: Value of the subgroup.
        rest: Value on all other images. If there are standard errors, `value` and `rest` are of
            equally many images, for which the larger side was reduced at random.
        errors: Standard errors of both values; None if a side has too few images, or there are no
            intervals.
        interval: Interval of the difference, corrected for the number of comparisons.
        is_far_below: Whether the subgroup lies far below the others (far above, if lower values are
            better).
    """

    value: float
    rest: float
    errors: tuple[StandardError, StandardError] | None = None
    interval: tuple[float, float] | None = None
    is_far_below: bool = False

    @property
    def difference(self) -> float:
        """`value - rest`."""
        return self.value - self.rest

    def to_json(self) -> dict[str, Any]:
        """Convert the comparison to plain values."""
        return {
            "value": self.value,
            "rest": self.rest,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "is_far_below": self.is_far_below,
        }


@dataclass(frozen=True)
class SubgroupResult:
    """Metrics of one head on one subgroup.

    Attributes:
        key: Key by which the images are divided.
        name: Name of the subgroup.
        head: Name of the head; empty for a results file.
        images: Number of its images that are annotated for the head.
        main_metric: Name of the metric by which subgroups are compared.
        metrics: Metric name -> metric.
        comparison: Comparison with all other images; None if there are none, or a value is
            undefined.
    """

    key: str
    name: str
    head: str
    images: int
    main_metric: str
    metrics: Mapping[str, Metric]
    comparison: RestComparison | None = None

    @property
    def main(self) -> Metric:
        """Metric by which subgroups are compared."""
        return self.metrics[self.main_metric]

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key that puts the worst subgroup first, and those without a value last."""
        value = self.main.value
        if value is None:
            return True, 0.0
        return False, -value if self.main.lower_is_better else value

    def to_json(self) -> dict[str, Any]:
        """Convert the result to its entry in `metrics.json`."""
        return {
            "key": self.key,
            "subgroup": self.name,
            **({"head": self.head} if self.head else {}),
            "images": self.images,
            "main_metric": self.main_metric,
            "comparison": None if self.comparison is None else self.comparison.to_json(),
            "metrics": {name: metric_to_json(metric) for name, metric in self.metrics.items()},
        }

    def describe_gap(self) -> str:
        """Return a warning if the subgroup lies far below the others; else an empty string."""
        comparison = self.comparison
        if comparison is None or comparison.interval is None or not comparison.is_far_below:
            return ""
        metric = f"{self.head}/{self.main_metric}" if self.head else self.main_metric
        unit = f" {self.main.unit}" if self.main.unit else ""
        low, high = comparison.interval
        return (
            f"{self.key} {self.name!r} ({Count(self.images):image}) lies far "
            f"{'above' if self.main.lower_is_better else 'below'} the other images: {metric} "
            f"{comparison.value:.3f}{unit} against {comparison.rest:.3f}{unit} on equally many "
            f"images, a difference of {comparison.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
        )


@dataclass(frozen=True)
class SubgroupMetrics:
    """Metrics of all subgroups.

    Attributes:
        results: Results by key and head, each with the worst subgroup first.
        notes: Sentences on how the images were divided, and on what is missing.
    """

    results: tuple[SubgroupResult, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_comparisons(self) -> int:
        """Number of comparisons that an interval is corrected for."""
        return count_comparisons(self.results)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about the subgroups that lie far below the others."""
        return tuple(filter(None, (result.describe_gap() for result in self.results)))

    def to_json(self) -> dict[str, Any]:
        """Convert the metrics to their entry in `metrics.json`."""
        return {
            "rule": {
                "least_images": LEAST_UNITS,
                "least_difference": LEAST_GAP,
                "level": LEVEL,
                "comparisons": self.num_comparisons,
            },
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "results": [result.to_json() for result in self.results],
        }


def count_comparisons(results: tuple[SubgroupResult, ...]) -> int:
    """Return the number of comparisons with standard errors."""
    return sum(
        result.comparison is not None and result.comparison.errors is not None for result in results
    )
