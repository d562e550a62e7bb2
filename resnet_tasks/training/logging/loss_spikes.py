"""Losses that leap out of what a run has seen lately."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW = 100
"""Optimizer steps that a loss is held against."""
MIN_STEPS = 20
"""Steps before anything is called a spike."""
THRESHOLD = 6.0
"""Standard deviations above the mean of the window."""
FLOOR = 0.02
"""Least standard deviation, as a share of the mean: a loss that hardly moves has no spikes."""


@dataclass(frozen=True)
class LossSpike:
    """A loss term far above its own recent values.

    Attributes:
        term: `head/term`.
        value: Its value.
        mean: Of the window before it.
        deviations: How many standard deviations it lies above that.
    """

    term: str
    value: float
    mean: float
    deviations: float


class LossSpikeDetector:
    """The recent values of every loss term."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def detect(self, losses: Mapping[str, float]) -> list[LossSpike]:
        """Those of a step's losses that are spikes; the step joins the window."""
        spikes = [
            spike for name, value in losses.items() if (spike := self._check_term(name, value))
        ]
        for name, value in losses.items():
            self._recent.setdefault(name, deque(maxlen=WINDOW)).append(value)
        return spikes

    def _check_term(self, name: str, value: float) -> LossSpike | None:
        recent = self._recent.get(name, ())
        if len(recent) < MIN_STEPS:
            return None
        mean = math.fsum(recent) / len(recent)
        spread = math.sqrt(
            math.fsum((recent_value - mean) ** 2 for recent_value in recent) / (len(recent) - 1)
        )
        deviations = (value - mean) / max(spread, FLOOR * abs(mean), 1e-12)
        return LossSpike(name, value, mean, deviations) if deviations > THRESHOLD else None
