"""Batches of every epoch, as a function of (seed, epoch), and the part that this process loads.

The seeds of the samples are functions of (seed, epoch, image, visit), for any dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch.utils.data import Dataset

from resnet_tasks.data.sampling.dataset_protocols import HasEpochs
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.loaders import choose_num_workers, get_shard, make_loader
from resnet_tasks.data.sampling.sample_keys import Key
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.main_guard import require_main_guard
from resnet_tasks.runtime.processes import SINGLE_PROCESS, DistributedContext
from resnet_tasks.structures.samples import Batch, Sample
from resnet_tasks.training.state.loss_reduction import drop_annotations
from resnet_tasks.training.state.progress import RunLength


@dataclass(frozen=True)
class StepBatches:
    """Batches of one optimizer step.

    Attributes:
        batches: This process's part of every batch.
        images: Number of images in all processes together.
    """

    batches: list[Batch]
    images: int


class EpochBatches:
    """Training batches, epoch by epoch and step by step.

    Args:
        data: Training samples, indexed by `SampleKey` if the dataset has epochs (`CocoDataset`
            does), else by position.
        options: Training options: seed, epochs, batch size and accumulation.
        device: Device of the model; images are pinned in memory for `cuda`.
        workers: Number of loader workers; None: chosen for the device.
        processes: Process group that shares every batch.

    Raises:
        RunError: If workers would run the main script again.

    Attributes:
        workers: Number of loader workers.
        length: Length of the run in batches and steps.
    """

    def __init__(
        self,
        data: Dataset[Sample],
        options: TrainingRecipe,
        *,
        device: torch.device,
        workers: int | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
    ) -> None:
        self._data = data
        self._options = options
        self._pin_memory = device.type == "cuda"
        self._processes = processes
        self.workers = choose_num_workers(device) if workers is None else workers
        if self.workers:  # before the run writes its first file
            require_main_guard()
        batches = len(self.compute_keys(0))
        updates = -(-batches // options.accumulation)
        self.length = RunLength(batches, updates, updates * options.epochs)

    def compute_keys(self, epoch: int) -> Sequence[Sequence[Key]]:
        """Return the sample keys of every batch of an epoch, for all processes together."""
        data, options = self._data, self._options
        sampler = data.epoch_sampler if isinstance(data, HasEpochs) else EpochSampler()
        batches = sampler.make_batches(
            len(data),  # type: ignore[arg-type]
            options.batch_size,
            seed=options.seed,
            epoch=epoch,
        )
        if isinstance(data, HasEpochs):
            return batches
        return [[position for _, position, _, _ in batch] for batch in batches]

    def iter_steps(
        self, epoch: int, *, start: int = 0, stop: int | None = None
    ) -> Iterator[StepBatches]:
        """Yield the batches of every optimizer step of an epoch, in order.

        Args:
            epoch: Epoch, from 0.
            start: Number of batches of the epoch that are already done.
            stop: Index of the batch to stop before; None: the end of the epoch.
        """
        keys = self.compute_keys(epoch)[start:stop]
        sizes = map(len, keys)
        read = self._load_batches(keys, epoch)
        while batches := list(islice(read, self._options.accumulation)):
            yield StepBatches(batches, sum(islice(sizes, len(batches))))

    def _load_batches(self, batches: Sequence[Sequence[Key]], epoch: int) -> Iterator[Batch]:
        """Yield this process's part of every batch.

        A process whose part is empty gets an image without annotations instead: every process must
        run the step, because all of them exchange their gradients.
        """
        parts = [
            get_shard(batch_keys, self._processes.index, self._processes.count)
            for batch_keys in batches
        ]
        loader = make_loader(
            self._data,
            [part or batch_keys[:1] for part, batch_keys in zip(parts, batches, strict=True)],
            workers=self.workers,
            pin_memory=self._pin_memory,
            seed_and_epoch=(self._options.seed, epoch),
        )
        for part, batch in zip(parts, loader, strict=True):
            yield batch if part else drop_annotations(batch)
