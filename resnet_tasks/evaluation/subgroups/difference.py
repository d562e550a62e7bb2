"""Interval of the difference between two means of independent samples, one of which may be small.

The half width is the larger one of two tests: Welch's for unequal variances, and Student's for the
variance of both samples together. Welch's alone finds differences by chance if a small sample
happens to vary little: the errors of ten images may all be 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import stdtrit


@dataclass(frozen=True)
class StandardError:
    """Standard error of a metric.

    Attributes:
        value: Standard deviation of the metric over datasets of the same size.
        units: Number of images, or of groups that are drawn as a whole, at least 2.
    """

    value: float
    units: int

    @property
    def unit_variance(self) -> float:
        """Variance between units of a mean with this error."""
        return self.value**2 * self.units


def compute_half_width(first: StandardError, second: StandardError, level: float) -> float:
    """Compute half the width of the interval of a difference.

    Args:
        first: Standard error of the first metric.
        second: Standard error of the second metric.
        level: Level of the interval, 0..1.
    """
    probability = 1 - (1 - level) / 2
    parts = [error.unit_variance / error.units for error in (first, second)]
    if not sum(parts):
        return 0.0
    degrees = sum(parts) ** 2 / (
        parts[0] ** 2 / (first.units - 1) + parts[1] ** 2 / (second.units - 1)
    )
    welch = float(stdtrit(degrees, probability)) * math.sqrt(sum(parts))
    pooled_degrees = first.units + second.units - 2
    variance = (
        (first.units - 1) * first.unit_variance + (second.units - 1) * second.unit_variance
    ) / pooled_degrees
    error = math.sqrt(variance * (1 / first.units + 1 / second.units))
    return max(welch, float(stdtrit(pooled_degrees, probability)) * error)
