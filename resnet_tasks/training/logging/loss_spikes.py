"""Detection of loss spikes: losses far above their recent values."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

WINDOW = 100
"""Number of recent optimizer steps that a loss is compared with."""
MIN_STEPS = 20
"""Minimum number of recorded steps before a loss can be a spike."""
THRESHOLD = 6.0
"""Standard deviations above the mean of the window from which a loss is a spike."""
FLOOR = 0.02
"""Minimum standard deviation as a share of the mean, so that a nearly constant loss has no
spikes."""


@dataclass(frozen=True)
class LossSpike:
    """Loss term far above its recent values.

    Attributes:
        term: Name of the loss term, `head/term`.
        value: Value of the loss term.
        mean: Mean over the window before it.
        deviations: Distance of the value from the mean, in standard deviations.
    """

    term: str
    value: float
    mean: float
    deviations: float


class LossSpikeDetector:
    """Detector of loss spikes, with the recent values of every loss term."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def detect(self, losses: Mapping[str, float]) -> list[LossSpike]:
        """Return the spikes among a step's losses, and add the losses to the window."""
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
