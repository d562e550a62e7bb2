"""Steps of a training of which nothing is kept: no folder, no log, no checkpoint."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import Dataset

from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.structures import Batch, Sample
from resnet_tasks.training.bad_pictures import BadPictures
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.journal import Journal
from resnet_tasks.training.learner import Learner
from resnet_tasks.training.limits import within_memory
from resnet_tasks.training.optimizer import rate_factor
from resnet_tasks.training.position import Position
from resnet_tasks.training.processes import ALONE, Processes
from resnet_tasks.training.signals import StopRequest
from resnet_tasks.training.trainee import Trainee


class Rehearsal:
    """Takes the steps that a run would take, for what they cost or show.

    Args:
        model: Is trained in place.
        train: Samples to learn from.
        options: The loop's numbers.
        workers: Loader processes; None: what suits the machine.
        processes: Those that train together.

    Attributes:
        options: The loop's numbers.
        trainee: What learns.
        batches: What it learns from.
        learner: Takes the steps.
        position: How far it has come.
    """

    def __init__(
        self,
        model: TaskModel,
        train: Dataset[Sample],
        options: TrainingRecipe,
        *,
        workers: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.options = options
        self.trainee = Trainee(model, options, processes)
        self.batches = EpochBatches(
            train, options, device=self.trainee.device, workers=workers, processes=processes
        )
        self.position = Position()
        self.learner = Learner(
            self.trainee,
            options,
            self.batches.length,
            journal=Journal.mute(),
            bad=BadPictures.of(train, None, writes=False),
            stop=StopRequest(),
            folder=None,
        )

    @property
    def picture_size(self) -> tuple[int, int]:
        """(H, W) of the last step's first batch."""
        return self.learner.picture_size or (0, 0)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """The conditions of a run's first epoch; `learn` belongs inside.

        Raises:
            MemoryLimitError: If memory does not suffice.
        """
        self.trainee.unfreezing.enter(0)
        self.trainee.model.train()
        with within_memory(self.learner.memory_advice), self.trainee.deterministic():
            yield

    def endless(self) -> Generator[list[Batch], None, None]:
        """The batches of every step, one epoch after another."""
        for epoch in range(2**20):
            self.position.epoch = epoch
            for group in self.batches.groups(epoch):
                yield group.batches

    def learn(self, group: Sequence[Batch], factor: float | None = None) -> dict[str, float]:
        """The next step; the mean of each loss term.

        Args:
            group: Its batches.
            factor: What all rates are multiplied with; None: what the schedule says.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
        """
        position = self.position
        if factor is None:
            factor = rate_factor(position.updates, self.batches.length.updates, self.options)
        losses = self.learner.learn(group, factor, position)
        position.updates += 1
        return losses

    def synchronize(self) -> None:
        """Waits until the device has done what it was given."""
        if self.trainee.device.type == "cuda":
            torch.cuda.synchronize(self.trainee.device)
