"""The order of samples as a function of (seed, epoch), and loaders over it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from resnet_tasks.data.dataset import Key
from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.structures import Batch, Sample, collate

Item = TypeVar("Item")


def epoch_order(length: int, *, seed: int, epoch: int) -> list[int]:
    """Positions 0..length-1, shuffled by (seed, epoch) alone."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(length, generator=generator).tolist()


def training_batches(
    length: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
) -> list[list[int]]:
    """The batches of one epoch, each a list of positions.

    Every picture comes once; the last batch may be smaller. Several processes share each batch of
    `batch_size` pictures (`part_of`).
    """
    order = epoch_order(length, seed=seed, epoch=epoch)
    return [order[start : start + batch_size] for start in range(0, length, batch_size)]


def part_of(items: Sequence[Item], process: int, processes: int) -> list[Item]:
    """What one of several processes does of a list: consecutive, even to within one item.

    It may be nothing.
    """
    first, last = (len(items) * each // processes for each in (process, process + 1))
    return list(items[first:last])


class _Batches:
    """A fixed list of batches, as a torch batch sampler."""

    def __init__(self, batches: Sequence[Sequence[Key]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Sequence[Key]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class _Careful(Dataset[Sample | ResnetTasksError]):
    """Hands over a mistake in the data: raised in a worker it would arrive as a traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Sample | ResnetTasksError:
        try:
            return self._dataset[key]
        except ResnetTasksError as error:
            return error


def _collate(samples: Sequence[Sample | ResnetTasksError]) -> Batch | ResnetTasksError:
    wrong = [each for each in samples if isinstance(each, ResnetTasksError)]
    return wrong[0] if wrong else collate([each for each in samples if isinstance(each, Sample)])


class Loader:
    """Batches in order, made by worker processes or here.

    Raises:
        ResnetTasksError: While it is read, what is wrong with a picture.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, ResnetTasksError):
                raise batch
            yield batch


def make_loader(
    dataset: Dataset[Sample],
    batches: Sequence[Sequence[Key]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Loader:
    """A loader that collates exactly the given batches, in order.

    Args:
        dataset: Samples by key.
        batches: The keys of each.
        workers: Processes that make them; 0: this one.
        pin_memory: Hand them over in page-locked memory.
        start_method: How workers start: `fork`, `spawn`, `forkserver`; None: as the system does.
    """
    return Loader(
        DataLoader(
            _Careful(dataset),
            batch_sampler=_Batches(batches),  # type: ignore[arg-type]
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if workers else None,
        )
    )


def auto_workers(device: torch.device) -> int:
    """Loader processes that suit the machine.

    On a CPU training itself takes all cores, and resized pictures come from memory: workers would
    only compete.
    """
    if device.type == "cpu":
        return 0
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(8, cores - 1))
