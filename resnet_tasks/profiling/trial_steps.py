"""Training steps that leave nothing on disk: no run folder, no log, no checkpoint."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.utils.data import Dataset

from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import (
    SINGLE_PROCESS,
    DistributedContext,
    resolve_process_device,
)
from resnet_tasks.structures.samples import Batch, Sample
from resnet_tasks.training.batches import EpochBatches
from resnet_tasks.training.guards.out_of_memory import translate_memory_errors
from resnet_tasks.training.guards.unreadable_images import UnreadableImages
from resnet_tasks.training.state.loss_reduction import StepLosses
from resnet_tasks.training.state.progress import TrainingProgress
from resnet_tasks.training.train_step import TrainStep


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
        batches: Batches of every epoch.
        train_step: Optimizer step, with the model.
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
        device = resolve_process_device(options.device, processes)
        self.batches = EpochBatches(
            train, options, device=device, workers=workers, processes=processes
        )
        self.progress = TrainingProgress()
        self.train_step = TrainStep(
            model,
            options,
            self.batches.length,
            processes=processes,
            unreadable=UnreadableImages.for_dataset(train, None, writes=False),
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the last step's first batch, in pixels, padding included; (0, 0) before it."""
        return self.train_step.image_size or (0, 0)

    @contextmanager
    def enter_training_mode(self) -> Iterator[None]:
        """Establish the conditions of a run's first epoch; call `run_step` inside the block.

        Raises:
            MemoryLimitError: If memory runs out inside the block.
        """
        self.train_step.unfreezing.enter_epoch(0)
        self.train_step.loss_module.train()
        with (
            translate_memory_errors(self.train_step.advise_on_memory),
            self.train_step.make_deterministic(),
        ):
            yield

    def iter_batches(self) -> Generator[list[Batch], None, None]:
        """Yield the batches of every step, one epoch after another."""
        for epoch in range(2**20):
            self.progress.epoch = epoch
            for group in self.batches.iter_steps(epoch):
                yield group.batches

    def run_step(self, group: Sequence[Batch], factor: float | None = None) -> StepLosses:
        """Take the next optimizer step.

        Args:
            group: Batches of the step.
            factor: Multiplier of all learning rates; None: the factor of the schedule.

        Returns:
            Losses of the step; empty if it was skipped.

        Raises:
            NonFiniteLossError: If a loss or gradient is not finite.
        """
        return self.train_step.run(group, self.progress, factor)

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.train_step.device.type == "cuda":
            torch.cuda.synchronize(self.train_step.device)
