"""The order of samples as a function of (seed, epoch), and loaders over it."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from resnet_tasks.data.sampling.dataset_protocols import SkipsUnreadableImages, SupportsUint8
from resnet_tasks.data.sampling.sample_keys import Key
from resnet_tasks.errors import ImageError, ResnetTasksError
from resnet_tasks.runtime.cpu_count import count_usable_cores
from resnet_tasks.runtime.malloc import keep_freed_memory
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Batch, Sample, collate

Item = TypeVar("Item")


def sample_epoch_order(
    length: int, *, seed: int, epoch: int, repeats: NDArray[np.float64] | None = None
) -> list[int]:
    """The positions that an epoch visits, in its order; a function of (seed, epoch).

    Args:
        length: Positions are 0..length-1.
        seed: Of the run.
        epoch: From 0.
        repeats: How often each position comes per epoch, above 0, on average over epochs: in each
            that number rounded down or up. Every epoch has as many visits as they sum to, rounded.
            None: each comes once.
    """
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    order = torch.randperm(length, generator=generator)
    if repeats is None:
        return order.tolist()
    sampled = _sample_systematically(
        order.numpy(), repeats, float(torch.rand((), generator=generator))
    )
    shuffled: list[int] = sampled[
        torch.randperm(len(sampled), generator=generator).numpy()
    ].tolist()
    return shuffled


def _sample_systematically(
    order: NDArray[np.int64], repeats: NDArray[np.float64], start: float
) -> NDArray[np.int64]:
    """Positions at steps of 1 along their repeats laid end to end (systematic sampling).

    Equal repeats lie together, so that all positions that share them get their due to within one.
    """
    order = order[np.argsort(repeats[order], kind="stable")]
    ends = np.cumsum(repeats[order])
    total = float(ends[-1])
    count, part = max(1, round(total)), total % 1
    # Where the steps begin decides whether one more fits in: every epoch must be equally long.
    if total >= 1 and part:
        start = start * part if count > total else part + start * (1 - part)
    elif part:
        start *= total
    points = start + np.arange(count)
    return order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]


def count_earlier_visits(batches: Sequence[Sequence[int]]) -> list[list[int]]:
    """How often each position of an epoch's batches has come before in that epoch."""
    visit_counts: Counter[int] = Counter()
    visits: list[list[int]] = []
    for batch in batches:
        visits.append([])
        for position in batch:
            visits[-1].append(visit_counts[position])
            visit_counts[position] += 1
    return visits


def make_training_batches(
    length: int,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    repeats: NDArray[np.float64] | None = None,
) -> list[list[int]]:
    """The batches of one epoch, each a list of positions.

    Every image comes once, or as often as `repeats` says (`epoch_order`); the last batch may be
    smaller. Several processes share each batch of `batch_size` images (`part_of`).
    """
    order = sample_epoch_order(length, seed=seed, epoch=epoch, repeats=repeats)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def get_shard(items: Sequence[Item], process: int, processes: int) -> list[Item]:
    """What one of several processes does of a list: consecutive, even to within one item.

    It may be nothing.
    """
    first, last = (len(items) * rank // processes for rank in (process, process + 1))
    return list(items[first:last])


class _BatchSampler:
    """A fixed list of batches, as a torch batch sampler."""

    def __init__(self, batches: Sequence[Sequence[Key]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Sequence[Key]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class _ErrorCatchingDataset(Dataset[Sample | ResnetTasksError]):
    """Hands over a mistake in the data: raised in a worker it would arrive as a traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Sample | ResnetTasksError:
        try:
            return self._dataset[key]
        except ResnetTasksError as error:
            return error


@dataclass(frozen=True)
class _Collate:
    """Makes a batch, or hands over what is wrong.

    Attributes:
        channels: Of the images, where those that cannot be read are left out of their batch.
    """

    channels: int | None

    def __call__(self, samples: Sequence[Sample | ResnetTasksError]) -> Batch | ResnetTasksError:
        errors = [sample for sample in samples if isinstance(sample, ResnetTasksError)]
        valid_samples = [sample for sample in samples if isinstance(sample, Sample)]
        image_errors = [error for error in errors if isinstance(error, ImageError)]
        if self.channels is None or len(image_errors) < len(errors):
            return errors[0] if errors else collate(valid_samples)
        batch = collate(valid_samples or [_make_placeholder(self.channels)])
        return (
            replace(batch, left_out=tuple(image_errors), is_stand_in=not valid_samples)
            if image_errors
            else batch
        )


def _make_placeholder(channels: int) -> Sample:
    """A black image of which nothing is known: it teaches nothing."""
    size = (64, 64)  # several cells at stride 32, without which batch norms refuse
    return Sample(torch.zeros(channels, *size), Geometry(size, size), "none")


class Loader:
    """Batches in order, made by worker processes or here.

    Raises:
        ResnetTasksError: While it is read, what is wrong with an image.
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

    Of a `CocoDataset` that skips bad images those are left out of their batch, which names them
    (`Batch.left_out`); where none is left, the batch is one black image without annotations.

    Args:
        dataset: Samples by key.
        batches: The keys of each.
        workers: Processes that make them; 0: this one.
        pin_memory: Hand them over in page-locked memory.
        start_method: How workers start: `fork`, `spawn`, `forkserver`; None: as the system does.
    """
    return Loader(
        DataLoader(
            _ErrorCatchingDataset(
                dataset.as_uint8() if isinstance(dataset, SupportsUint8) else dataset
            ),
            batch_sampler=_BatchSampler(batches),  # type: ignore[arg-type]
            collate_fn=_Collate(_get_placeholder_channels(dataset)),
            num_workers=workers,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if workers else None,
            worker_init_fn=_init_worker,
        )
    )


def _init_worker(_: int) -> None:
    """Keeps what a forked worker has from its parent in shared pages; ends it with its parent.

    What it frees, for the next image, it keeps too.

    A collection of garbage writes into every object that it looks at, which would copy them. Torch
    looks whether the process that started a worker is there; between a worker and a training that
    was killed stands a fork server, which waits for its workers.
    """
    gc.freeze()
    keep_freed_memory()
    # One thread, as torch has here: there is a worker per core. (With 1 in place of 0 OpenCV would
    # wait for threads that did not come along in a fork.)
    cv2.setNumThreads(0)
    trainer = parent_process()
    if trainer is not None:
        Thread(target=_exit_with_parent, args=(trainer,), daemon=True).start()


def _exit_with_parent(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def _get_placeholder_channels(dataset: Dataset[Sample]) -> int | None:
    """Channels of a data set whose bad images are left out; None: they are errors."""
    if not isinstance(dataset, SkipsUnreadableImages) or dataset.unreadable_image_limit is None:
        return None
    return dataset.preparation.channels


def choose_num_workers(device: torch.device) -> int:
    """Loader processes that suit the machine.

    On a CPU training itself takes all cores, and resized images come from memory: workers would
    only compete.
    """
    if device.type == "cpu":
        return 0
    return max(1, min(8, count_usable_cores() - 1))
