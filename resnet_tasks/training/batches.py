"""The batches of every epoch, as a function of (seed, epoch), and this process's part of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import Dataset

from resnet_tasks.data.data_set_protocols import HasEpochs
from resnet_tasks.data.loaders import (
    auto_workers,
    earlier_visits,
    make_loader,
    part_of,
    training_batches,
)
from resnet_tasks.data.sample_keys import Key
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.structures import Batch, Sample
from resnet_tasks.training.position import RunLength
from resnet_tasks.training.processes import ALONE, Processes
from resnet_tasks.training.shares import unannotated


@dataclass(frozen=True)
class Group:
    """The batches of one optimizer step.

    Attributes:
        batches: This process's part of each.
        pictures: Of all processes together.
    """

    batches: list[Batch]
    pictures: int


class EpochBatches:
    """What is learnt from, batch by batch.

    Args:
        data: Samples; indexed by (epoch, position) when it has epochs, as `CocoDataset` has.
        options: The seed, and how many pictures and batches make a step.
        device: Where batches go.
        workers: Loader processes; None: what suits the device.
        processes: Those that share every batch.

    Attributes:
        workers: Loader processes.
        length: Of the run.
    """

    def __init__(
        self,
        data: Dataset[Sample],
        options: TrainingRecipe,
        *,
        device: torch.device,
        workers: int | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self._data = data
        self._options = options
        self._pin_memory = device.type == "cuda"
        self._processes = processes
        self.workers = auto_workers(device) if workers is None else workers
        batches = len(self.keys(0))
        updates = -(-batches // options.accumulation)
        self.length = RunLength(batches, updates, updates * options.epochs)

    def keys(self, epoch: int) -> list[list[Key]]:
        """The keys of every batch of an epoch, of all processes together."""
        data = self._data
        batches = training_batches(
            len(data),  # type: ignore[arg-type]
            self._options.batch_size,
            seed=self._options.seed,
            epoch=epoch,
            repeats=data.repeats if isinstance(data, HasEpochs) else None,
        )
        if not isinstance(data, HasEpochs):
            return [list(batch) for batch in batches]
        return [
            data.batch_keys(epoch, i, batch, visits)
            for i, (batch, visits) in enumerate(zip(batches, earlier_visits(batches), strict=True))
        ]

    def groups(self, epoch: int, *, start: int = 0, stop: int | None = None) -> Iterator[Group]:
        """The steps of an epoch, read, in their order.

        Args:
            epoch: From 0.
            start: Batches of it that are done.
            stop: The batch to end before; None: the end of the epoch.
        """
        keys = self.keys(epoch)[start:stop]
        sizes = map(len, keys)
        read = self._read(keys)
        while batches := list(islice(read, self._options.accumulation)):
            yield Group(batches, sum(islice(sizes, len(batches))))

    def _read(self, batches: Sequence[Sequence[Key]]) -> Iterator[Batch]:
        """This process's part of every batch, read.

        A part without pictures still takes part in the step, with one that teaches nothing.
        """
        parts = [part_of(each, self._processes.index, self._processes.count) for each in batches]
        loader = make_loader(
            self._data,
            [part or whole[:1] for part, whole in zip(parts, batches, strict=True)],
            workers=self.workers,
            pin_memory=self._pin_memory,
        )
        for part, batch in zip(parts, loader, strict=True):
            yield batch if part else unannotated(batch)
