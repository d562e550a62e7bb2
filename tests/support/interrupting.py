"""Trainings that are cut off at a chosen update: killed without a word, or asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import pytest

from resnet_tasks.runtime.signals import TrainingStopped
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep


class KilledError(Exception):
    """As a kill: nothing is written any more."""


@contextmanager
def before_update(update: int, act: Callable[[TrainStep], object], nth: int = 1) -> Iterator[None]:
    """Does something before an update.

    Args:
        update: Its number, from 0.
        act: What to do; is given who takes the step.
        nth: Which of several trainings it is done in, from 1.
    """
    learn, seen = TrainStep.run, count(1)

    def acting(
        self: TrainStep, group: Sequence[Batch], position: TrainingProgress
    ) -> dict[str, float]:
        if position.updates == update and next(seen) == nth:
            act(self)
        return learn(self, group, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "run", acting)
        yield


@contextmanager
def killed_at(update: int, nth: int = 1) -> Iterator[None]:
    """The training inside dies before an update; of several the `nth`."""

    def die(_: TrainStep) -> None:
        raise KilledError

    with before_update(update, die, nth), pytest.raises(KilledError):
        yield


@contextmanager
def asked_to_stop_at(update: int) -> Iterator[None]:
    """The training inside is asked to stop in an update, and does."""

    def ask(learner: TrainStep) -> None:
        learner.stop.is_requested = True

    with before_update(update, ask), pytest.raises(TrainingStopped):
        yield
