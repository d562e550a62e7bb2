"""Training steps that leave nothing on disk: no run folder, no log, no checkpoint."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import Dataset

from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import SINGLE_PROCESS, DistributedContext
from resnet_tasks.structures.samples import Batch, Sample
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.guards.out_of_memory import translate_memory_errors
from resnet_tasks.training.guards.signals import StopRequest
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.optimizer import compute_lr_factor
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.state.train_state import TrainState
from resnet_tasks.training.train_step import TrainStepRunner


class TrialTraining:
    """Training without files, for the dry run, the profiler and the learning-rate finder.

    Args:
        model: Model, trained in place.
        train: Training samples.
        options: Options of the training loop.
        workers: Number of loader workers; None: chosen for the machine.
        processes: Process group of the training.

    Attributes:
        options: Options of the training loop.
        train_state: Model, optimizer and precision.
        batches: Batches of every epoch.
        step_runner: Runner of the optimizer steps.
        progress: Position in the training.
    """

    def __init__(
        self,
        model: TaskModel,
        train: Dataset[Sample],
        options: TrainingRecipe,
        *,
        workers: int | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self.options = options
        self.train_state = TrainState(model, options, processes)
        self.batches = EpochBatches(
            train, options, device=self.train_state.device, workers=workers, processes=processes
        )
        self.progress = TrainingProgress()
        self.step_runner = TrainStepRunner(
            self.train_state,
            options,
            self.batches.length,
            run_log=RunLog.create_silent(),
            unreadable=UnreadableImages.for_dataset(train, None, writes=False),
            stop=StopRequest(),
            folder=None,
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the last step's first batch, in pixels, padding included; (0, 0) before it."""
        return self.step_runner.image_size or (0, 0)

    @contextmanager
    def enter_training_mode(self) -> Iterator[None]:
        """Establish the conditions of a run's first epoch; call `run_step` inside the block.

        Raises:
            MemoryLimitError: If memory runs out inside the block.
        """
        self.train_state.unfreezing.enter_epoch(0)
        self.train_state.model.train()
        with (
            translate_memory_errors(self.step_runner.advise_on_memory),
            self.train_state.make_deterministic(),
        ):
            yield

    def iter_batches(self) -> Generator[list[Batch], None, None]:
        """Yield the batches of every step, one epoch after another."""
        for epoch in range(2**20):
            self.progress.epoch = epoch
            for group in self.batches.iter_steps(epoch):
                yield group.batches

    def run_step(self, group: Sequence[Batch], factor: float | None = None) -> dict[str, float]:
        """Take the next optimizer step.

        Args:
            group: Batches of the step.
            factor: Multiplier of all learning rates; None: the factor of the schedule.

        Returns:
            `head/term` -> mean of the loss term; empty for a skipped step.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
        """
        progress = self.progress
        if factor is None:
            factor = compute_lr_factor(progress.updates, self.batches.length.updates, self.options)
        losses = self.step_runner.run_step(group, factor, progress)
        progress.updates += 1
        return losses

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.train_state.device.type == "cuda":
            torch.cuda.synchronize(self.train_state.device)
