"""Predictions for every image of a dataset, in a single process or a process group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from torch.utils.data import Dataset

from resnet_tasks.data.sampling.loaders import get_shard, make_loader
from resnet_tasks.errors import DataError
from resnet_tasks.inference.sliding_window import ReadsRegions, SlidingWindows
from resnet_tasks.inference.test_time_augmentation import (
    Predictor,
    TtaPredictor,
    get_scales,
    predict_batches,
    rescale_dataset,
    unwrap_model,
)
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.structures.samples import Batch, Sample

ImagePrediction = tuple[int, int | str, dict[str, Any]]
"""Position of an image, its id, and {head: prediction}."""


class ProcessGroup(Protocol):
    """Processes that evaluate together; process 0 evaluates the predictions of all processes."""

    @property
    def index(self) -> int:
        """Index of this process, from 0."""
        ...

    @property
    def count(self) -> int:
        """Number of processes."""
        ...

    def collect(self, value: list[ImagePrediction]) -> list[list[ImagePrediction]]:
        """Gather the values of all processes in process 0.

        Returns:
            Values by process index in process 0; an empty list in the others.
        """
        ...


@dataclass(frozen=True)
class SingleProcess:
    """Process group with a single process."""

    index: int = 0
    count: int = 1

    def collect(self, value: list[ImagePrediction]) -> list[list[ImagePrediction]]:
        """Return the value of the only process."""
        return [value]


def predict_dataset(
    model: Predictor,
    dataset: Dataset[Sample],
    batch_size: int,
    *,
    precision: str,
    workers: int = 0,
    process_group: ProcessGroup = SingleProcess(),
) -> Iterator[ImagePrediction]:
    """Predict the images of a dataset, in their order.

    Args:
        model: Model, or a sliding-window or test-time augmentation predictor.
        dataset: Samples without augmentation.
        batch_size: Images per forward pass; sliding windows predict one image at a time.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Number of loader processes.
        process_group: Processes that share the images.

    Yields:
        Position, id and predictions of each image; in a process group only in process 0.
    """
    length = len(dataset)  # type: ignore[arg-type]
    chunk_size = process_group.count if isinstance(model, SlidingWindows) else batch_size
    batches = [list(range(i, min(i + chunk_size, length))) for i in range(0, length, chunk_size)]
    resolved_precision = resolve_precision(precision, unwrap_model(model).device)
    parts = [get_shard(batch, process_group.index, process_group.count) for batch in batches]
    for predictions in _predict_parts(
        model, dataset, parts, precision=resolved_precision, workers=workers
    ):
        yield from chain.from_iterable(process_group.collect(predictions))


def _predict_parts(
    model: Predictor,
    dataset: Dataset[Sample],
    parts: Sequence[Sequence[int]],
    *,
    precision: str,
    workers: int,
) -> Iterator[list[ImagePrediction]]:
    """Predict the images of every part, in order."""
    if isinstance(model, SlidingWindows):
        for part in parts:
            yield [_predict_windows(model, dataset, index, precision) for index in part]
        return
    nonempty_parts = [part for part in parts if part]
    loaders = [
        iter(make_loader(rescale_dataset(dataset, scale), nonempty_parts, workers=workers))
        for scale in get_scales(model)
    ]
    for part in parts:
        yield (
            _predict_tta_batch(model, part, [next(loader) for loader in loaders], precision)
            if part
            else []
        )


def _predict_tta_batch(
    model: TaskModel | TtaPredictor,
    positions: Sequence[int],
    tta_views: Sequence[Batch],
    precision: str,
) -> list[ImagePrediction]:
    """Predict every image of a batch that was loaded at each scale of the predictor."""
    predictions = predict_batches(model, tta_views, precision=precision)
    return [
        (
            index,
            tta_views[0].image_ids[i],
            {name: head_predictions[i] for name, head_predictions in predictions.items()},
        )
        for i, index in enumerate(positions)
    ]


def _predict_windows(
    model: SlidingWindows, dataset: Dataset[Sample], index: int, precision: str
) -> ImagePrediction:
    """Predict one image, which is read window by window.

    Raises:
        DataError: If the dataset cannot read regions of images.
    """
    if not isinstance(dataset, ReadsRegions):
        raise DataError(
            f"{type(dataset).__name__} has no prepare_image(index), which sliding windows need; "
            "evaluate whole images"
        )
    return (
        index,
        dataset.image_id(index),
        model.predict(dataset.prepare_image(index), precision=precision),
    )
