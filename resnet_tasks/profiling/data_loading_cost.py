"""What one image costs a loader process: read, prepared and augmented on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import getitem
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.dataset_protocols import HasEpochs
from resnet_tasks.structures.samples import Sample

NUM_SAMPLES = 24
"""That are read, evenly over the data set."""
MAX_SECONDS = 6.0
"""Seconds after which no further image is read."""


@dataclass(frozen=True)
class ReadingCost:
    """Median seconds per image, on one core.

    Attributes:
        images: That were read.
        whole: From the file to the sample.
        decoding: Of that, reading the file into pixels; None where it cannot be told apart.
        augmentation: Of that, all that changes from epoch to epoch; None likewise.
        from_memory: Of an image that is kept in memory, its augmentation included; None where
            none are.
        stored_size: (height, width) of the first one as stored; None likewise.
    """

    images: int
    whole: float
    decoding: float | None = None
    augmentation: float | None = None
    from_memory: float | None = None
    stored_size: tuple[int, int] | None = None

    @property
    def preparation(self) -> float | None:
        """What is neither decoding nor augmentation: resize, annotations, conversion."""
        if self.decoding is None or self.augmentation is None:
            return None
        return max(0.0, self.whole - self.decoding - self.augmentation)


def measure_reading_cost(data: Dataset[Sample]) -> ReadingCost:
    """Reads some images of a training set.

    Raises:
        ResnetTasksError: If one cannot be read.
    """
    length = len(data)  # type: ignore[arg-type]
    positions = np.unique(np.linspace(0, length - 1, min(NUM_SAMPLES, length)).astype(int)).tolist()
    durations: dict[str, list[float]] = {}

    def time_call(name: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        output = function()
        durations.setdefault(name, []).append(time.perf_counter() - started)
        return output

    started, size = time.perf_counter(), None
    with limit_to_one_core():
        for position in positions:
            key: Any = (0, position) if isinstance(data, HasEpochs) else position
            if not isinstance(data, CocoDataset):
                time_call("whole", partial(getitem, data, key))
            else:
                fresh = data.at_scale(1.0)  # keeps nothing in memory
                time_call("whole", partial(getitem, fresh, key))
                stored_image = time_call("decoding", partial(data.load_image, position))
                size = size or (int(stored_image.shape[0]), int(stored_image.shape[1]))
                plain = fresh.load_sample(position)
                time_call("augmentation", partial(data.finalize_sample, plain, position, 0, 0))
                if data.is_cached:
                    data[key]
                    time_call("from_memory", partial(getitem, data, key))
            if time.perf_counter() - started > MAX_SECONDS:
                break
    return ReadingCost(
        images=len(durations["whole"]),
        stored_size=size,
        **{name: median(values) for name, values in durations.items()},
    )


@contextmanager
def limit_to_one_core() -> Iterator[None]:
    """One thread, as a loader process has."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
