"""Losses that leap out of what a run has seen lately."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW = 100
"""Optimizer steps that a loss is held against."""
ENOUGH = 20
"""Steps before anything is called a spike."""
THRESHOLD = 6.0
"""Standard deviations above the mean of the window."""
FLOOR = 0.02
"""Least standard deviation, as a share of the mean: a loss that hardly moves has no spikes."""


@dataclass(frozen=True)
class Spike:
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


class SpikeWatch:
    """The recent values of every loss term."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def spikes(self, losses: Mapping[str, float]) -> list[Spike]:
        """Those of a step's losses that are spikes; the step joins the window."""
        found = [spike for name, value in losses.items() if (spike := self._spike(name, value))]
        for name, value in losses.items():
            self._recent.setdefault(name, deque(maxlen=WINDOW)).append(value)
        return found

    def _spike(self, name: str, value: float) -> Spike | None:
        recent = self._recent.get(name, ())
        if len(recent) < ENOUGH:
            return None
        mean = math.fsum(recent) / len(recent)
        spread = math.sqrt(math.fsum((each - mean) ** 2 for each in recent) / (len(recent) - 1))
        deviations = (value - mean) / max(spread, FLOOR * abs(mean), 1e-12)
        return Spike(name, value, mean, deviations) if deviations > THRESHOLD else None
