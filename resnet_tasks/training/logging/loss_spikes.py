"""Detection of losses far above their recent values: spikes of one step, and lasting increases.

A spike of a single term, such as a batch with one hard or mislabeled image, is normal: training
recovers from it in the next step. Spikes are logged for later inspection only. Training that
diverges looks different: the loss of a head rises and stays high. Only this is worth a warning.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

WINDOW = 100
"""Number of recent optimizer steps that a loss is compared with."""
MIN_STEPS = 20
"""Minimum number of recorded steps before a loss can be a spike."""
THRESHOLD = 6.0
"""Standard deviations above the mean of the window from which a loss is a spike."""
FLOOR = 0.02
"""Minimum standard deviation as a share of the mean, so that a nearly constant loss has no
spikes."""
LASTING_STEPS = 5
"""Number of most recent steps whose median must be high: most of them, not a single one."""
LASTING_THRESHOLD = 5.0
"""Standard deviations above the median of the window from which an increase counts. The standard
deviation is estimated from the median absolute deviation, which a few spikes do not change."""
LASTING_RATIO = 1.5
"""Minimum ratio of the increased loss to the earlier one: losses that hardly vary can exceed the
threshold without any harm."""
MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution divided by its median absolute deviation."""


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


@dataclass(frozen=True)
class LossIncrease:
    """Loss of a head that has risen far above its recent values and stayed there.

    Attributes:
        head: Name of the head.
        update: Step at which the loss rose, from 0.
        before: Median loss of the window before.
        after: Median loss of the last `LASTING_STEPS` steps.
        image_ids: Images of the step at which the loss rose.
    """

    head: str
    update: int
    before: float
    after: float
    image_ids: tuple[int | str, ...]


@dataclass
class _HeadLosses:
    """Recent losses of a head.

    Attributes:
        window: Losses before those of `last`.
        last: Step, loss and images of the last `LASTING_STEPS` steps.
    """

    window: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    last: deque[tuple[int, float, tuple[int | str, ...]]] = field(
        default_factory=lambda: deque(maxlen=LASTING_STEPS)
    )


class LossIncreaseDetector:
    """Detector of lasting increases of the heads' losses, with their recent values.

    Heads are compared one by one, because a head that is annotated in few images, or has a small
    loss, is invisible in the total. After an increase the comparison starts anew: the increased
    loss is then the normal one.
    """

    def __init__(self) -> None:
        self._recent: dict[str, _HeadLosses] = {}

    def detect(
        self, update: int, losses: Mapping[str, float], image_ids: Sequence[int | str]
    ) -> list[LossIncrease]:
        """Add the losses of a step; return the increases that are certain from this step on.

        Args:
            update: Index of the step.
            losses: Head -> loss; heads without annotations in the step are missing.
            image_ids: Images of the step.
        """
        increases = []
        for head, loss in losses.items():
            recent = self._recent.setdefault(head, _HeadLosses())
            if len(recent.last) == LASTING_STEPS:
                recent.window.append(recent.last[0][1])
            recent.last.append((update, loss, tuple(image_ids)))
            if increase := _compare(head, recent):
                increases.append(increase)
                del self._recent[head]
        return increases


def _compare(head: str, recent: _HeadLosses) -> LossIncrease | None:
    """Return the increase of a head's last losses over its window; None without one."""
    if len(recent.window) < MIN_STEPS:
        return None
    before, after = median(recent.window), median(loss for _, loss, _ in recent.last)
    spread = MAD_TO_SD * median(abs(loss - before) for loss in recent.window)
    limit = max(before + LASTING_THRESHOLD * spread, LASTING_RATIO * before)
    if after <= limit:
        return None
    update, _, image_ids = next(entry for entry in recent.last if entry[1] > limit)
    return LossIncrease(head, update, before, after, image_ids)
