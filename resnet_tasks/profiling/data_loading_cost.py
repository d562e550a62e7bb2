"""Time that a loader worker needs per image: reading, preparation and augmentation on one core."""

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
from resnet_tasks.data.datasets.sample_augmentation import convert_to_float
from resnet_tasks.data.datasets.stored_images import read_stored_image
from resnet_tasks.data.sampling.dataset_protocols import HasEpochs
from resnet_tasks.structures.samples import Sample

NUM_SAMPLES = 24
"""Maximum number of images to read, evenly spaced over the dataset."""
MAX_SECONDS = 6.0
"""Time limit in seconds, after which no further image is read."""


@dataclass(frozen=True)
class ReadingCost:
    """Median time per image, in seconds, on one core.

    `decoding`, `augmentation` and `stored_size` are None for datasets other than `CocoDataset`,
    whose samples come in one piece.

    Attributes:
        images: Number of images that were read.
        whole: Seconds from the file to the sample.
        decoding: Part of `whole` that reads and decodes the file.
        augmentation: Part of `whole` that changes from epoch to epoch.
        from_memory: Seconds for an image from the in-memory cache, augmentation included; None
            without a cache.
        stored_size: (height, width) of the first image as stored.
    """

    images: int
    whole: float
    decoding: float | None = None
    augmentation: float | None = None
    from_memory: float | None = None
    stored_size: tuple[int, int] | None = None

    @property
    def preparation(self) -> float | None:
        """Remaining seconds (resize, annotations, conversion); None if the parts are unknown."""
        if self.decoding is None or self.augmentation is None:
            return None
        return max(0.0, self.whole - self.decoding - self.augmentation)


def measure_reading_cost(data: Dataset[Sample]) -> ReadingCost:
    """Measure the time to read up to `NUM_SAMPLES` images of a training set.

    Args:
        data: Training samples.

    Raises:
        ResnetTasksError: If an image cannot be read.
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
                fresh = data.at_scale(1.0)  # a copy without in-memory cache
                time_call("whole", partial(getitem, fresh, key))
                record = data.image_index.record(position)
                read = partial(read_stored_image, data.preparation, *record)
                stored_image = time_call("decoding", read)
                size = size or (int(stored_image.shape[0]), int(stored_image.shape[1]))
                plain = fresh.load_sample(position)
                time_call("augmentation", partial(_augment, data, plain))
                if data.cache is not None:
                    data[key]  # fills the cache
                    time_call("from_memory", partial(getitem, data, key))
            if time.perf_counter() - started > MAX_SECONDS:
                break
    return ReadingCost(
        images=len(durations["whole"]),
        stored_size=size,
        **{name: median(values) for name, values in durations.items()},
    )


def _augment(data: CocoDataset, sample: Sample) -> Sample:
    return convert_to_float(data.augmentation(sample, 0, 0))


@contextmanager
def limit_to_one_core() -> Iterator[None]:
    """Limit torch and OpenCV to one thread inside the block, as in a loader worker."""
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
