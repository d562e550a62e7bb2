"""Trainings that are cut off at a chosen update: killed without a word, or asked to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from resnet_tasks.structures import Batch
from resnet_tasks.training.learner import Learner
from resnet_tasks.training.position import Position
from resnet_tasks.training.signals import Stopped


class KilledError(Exception):
    """As a kill: nothing is written any more."""


@contextmanager
def before_update(update: int, act: Callable[[Learner], object]) -> Iterator[None]:
    """Does something when a training comes to an update, the first being 0."""
    learn = Learner.learn

    def acting(
        self: Learner, group: Sequence[Batch], factor: float, position: Position
    ) -> dict[str, float]:
        if position.updates == update:
            act(self)
        return learn(self, group, factor, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", acting)
        yield


@contextmanager
def killed_at(update: int) -> Iterator[None]:
    """The training inside dies before an update."""

    def die(_: Learner) -> None:
        raise KilledError

    with before_update(update, die), pytest.raises(KilledError):
        yield


@contextmanager
def asked_to_stop_at(update: int) -> Iterator[None]:
    """The training inside is asked to stop in an update, and does."""

    def ask(learner: Learner) -> None:
        learner.stop.is_asked = True

    with before_update(update, ask), pytest.raises(Stopped):
        yield
