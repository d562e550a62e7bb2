"""Time until the end of a run, estimated from its own steps and evaluations."""

from __future__ import annotations

from collections import deque

WINDOW = 200
"""Number of recent steps whose mean duration is used."""


class TimeLeft:
    """Estimate of the time until the end of a run."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=WINDOW)
        self._is_first = True
        self._evaluation = 0.0

    def add_step(self, seconds: float) -> None:
        """Add the duration of a step; the first one is slow and does not count."""
        if not self._is_first:
            self._steps.append(seconds)
        self._is_first = False

    def set_evaluation(self, seconds: float) -> None:
        """Set the duration of an evaluation to that of the last one; 0 before the first one."""
        self._evaluation = seconds

    def estimate(self, steps: int, evaluations: int) -> float | None:
        """Return the seconds for a number of steps and evaluations; None if they are unknown."""
        if not self._steps:
            return None
        return steps * sum(self._steps) / len(self._steps) + evaluations * self._evaluation
