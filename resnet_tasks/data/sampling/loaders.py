"""Data loaders over fixed batches of sample keys."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from resnet_tasks.data.sampling.dataset_protocols import SkipsUnreadableImages, SupportsUint8
from resnet_tasks.data.sampling.sample_keys import Key, derive_sample_seed, unpack_key
from resnet_tasks.errors import ImageError, ResnetTasksError
from resnet_tasks.runtime.cpu_count import count_usable_cores
from resnet_tasks.runtime.main_guard import require_main_guard
from resnet_tasks.runtime.malloc import keep_freed_memory
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Batch, Sample, collate

Item = TypeVar("Item")


def get_shard(items: Sequence[Item], process: int, processes: int) -> list[Item]:
    """Return the items of one of several processes: a contiguous part, possibly empty.

    The sizes of the parts differ by at most one.
    """
    first, last = (len(items) * rank // processes for rank in (process, process + 1))
    return list(items[first:last])


class _ErrorCatchingDataset(Dataset[Any]):
    """Dataset that returns errors as items instead of raising them.

    An error raised in a worker would reach the user as a traceback.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except ResnetTasksError as error:
            return error


class _SeededDataset(Dataset[Sample]):
    """Dataset that sets the seeds of its samples from (run seed, epoch, image, visit).

    The visit is part of the key. The wrapped dataset need not know the run's seed or the epoch.
    """

    def __init__(self, dataset: Dataset[Sample], seed: int, epoch: int) -> None:
        self._dataset = dataset
        self._seed = seed
        self._epoch = epoch

    def __getitem__(self, key: Key) -> Sample:
        sample, visit = self._dataset[key], unpack_key(key)[3]
        seed = derive_sample_seed(self._seed, self._epoch, sample.image_id, visit)
        return replace(sample, seed=seed)


@dataclass(frozen=True)
class _Collate:
    """Collate function that returns either a batch or, as a value, the first error.

    Attributes:
        channels: Number of channels of the images if unreadable images are skipped; None if each is
            an error.
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
    """Return a black image without annotations, which contributes no loss."""
    size = (64, 64)  # batch norm requires more than one value per channel at stride 32
    return Sample(torch.zeros(channels, *size), Geometry(size, size), "none")


def _raise_or_list(items: Sequence[Any]) -> Any:
    """Return the items as a list, or the first error among them, which `Loader` then raises."""
    return next((item for item in items if isinstance(item, ResnetTasksError)), list(items))


class Loader:
    """Iterable of batches in order, made by worker processes or in this process.

    Raises:
        ResnetTasksError: If an image or its annotations are invalid; raised on iteration.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
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
    seed_and_epoch: tuple[int, int] | None = None,
) -> Loader:
    """Return a loader that collates exactly the given batches, in order.

    If the dataset skips unreadable images, they are removed from their batch, which lists them
    (`Batch.left_out`). If no image of a batch is readable, the batch is one black image without
    annotations.

    Args:
        dataset: Dataset of samples by key.
        batches: Keys of each batch.
        workers: Number of worker processes; 0 loads in this process.
        pin_memory: Whether to return batches in page-locked memory.
        start_method: Start method of the workers: `fork`, `spawn`, `forkserver`; None: the default
            of the system.
        seed_and_epoch: Seed of the run and epoch, from which `Sample.seed` is set; None: samples
            keep their seeds.
    """
    samples = dataset.as_uint8() if isinstance(dataset, SupportsUint8) else dataset
    return _build_loader(
        samples if seed_and_epoch is None else _SeededDataset(samples, *seed_and_epoch),
        batches,
        _Collate(_get_placeholder_channels(dataset)),
        workers=workers,
        pin_memory=pin_memory,
        start_method=start_method,
    )


def make_item_loader(
    dataset: Dataset[Any], batches: Sequence[Sequence[Key]], *, workers: int = 0
) -> Loader:
    """Return a loader of lists of items, in the order of the given batches.

    Args:
        dataset: Dataset of items by key.
        batches: Keys of each list.
        workers: Number of worker processes; 0 loads in this process.
    """
    return _build_loader(dataset, batches, _raise_or_list, workers=workers)


def _build_loader(
    dataset: Dataset[Any],
    batches: Sequence[Sequence[Key]],
    collate_items: Callable[[Sequence[Any]], Any],
    *,
    workers: int,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Loader:
    """Return a loader of collated items.

    Raises:
        RunError: If workers would run the main script again.
    """
    if workers:
        require_main_guard(start_method)
    return Loader(
        DataLoader(
            _ErrorCatchingDataset(dataset),
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=collate_items,
            num_workers=workers,
            pin_memory=pin_memory,
            multiprocessing_context=start_method if workers else None,
            worker_init_fn=_init_worker,
        )
    )


def _init_worker(_: int) -> None:
    """Keep memory shared with the parent, keep freed memory, and exit with the trainer only.

    Garbage collection writes to every object that it visits, which would copy the pages that a
    forked worker shares with its parent. Freezing the objects prevents this. Freed memory is kept
    for the next image instead of being returned to the system.

    Torch checks whether the process that started a worker is alive. With a fork server that is the
    server, which waits for its workers even after the trainer was killed. A thread therefore
    watches the trainer itself.
    """
    _leave_signals_to_trainer()
    gc.freeze()
    keep_freed_memory()
    # One thread, as torch uses in workers, because there is one worker per core. The value is 0
    # because with 1 OpenCV would wait for threads that do not exist after a fork.
    cv2.setNumThreads(0)
    trainer = parent_process()
    if trainer is not None:
        Thread(target=_exit_with_parent, args=(trainer,), daemon=True).start()


def _leave_signals_to_trainer() -> None:
    """Ignore the first Ctrl-C or SIGTERM, which the trainer handles, and exit at the second one.

    A terminal, torchrun, SLURM and container runtimes send these signals to all processes of a
    group. The trainer still needs its workers to finish the step, and ends them afterwards.
    """
    received_signals: list[int] = []

    def handle(number: int, _: object) -> None:
        if received_signals:
            os._exit(0)
        received_signals.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _exit_with_parent(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def _get_placeholder_channels(dataset: Dataset[Sample]) -> int | None:
    """Return the channels of a dataset that skips unreadable images, None if each is an error."""
    if isinstance(dataset, SkipsUnreadableImages) and dataset.max_unreadable_images:
        return dataset.preparation.channels
    return None


def choose_num_workers(device: torch.device) -> int:
    """Return the number of loader processes for this machine.

    On a CPU, training itself uses all cores and resized images come from memory, so workers would
    only compete for cores.
    """
    if device.type == "cpu":
        return 0
    return max(1, min(8, count_usable_cores() - 1))
