"""Predictions for every image of a dataset, in a single process or a process group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

from torch.utils.data import Dataset

from resnet_tasks.data.images.preprocessing import PreparedImage
from resnet_tasks.data.sampling.dataset_protocols import SupportsUint8
from resnet_tasks.data.sampling.loaders import get_shard, make_item_loader
from resnet_tasks.errors import DataError
from resnet_tasks.inference.predictor import Predictor, Prepared
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import InputImage
from resnet_tasks.structures.samples import Sample

ImagePrediction = tuple[int, ImageResult]
"""Position of an image in the dataset, and its predictions."""


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


@runtime_checkable
class ReadsRegions(Protocol):
    """Dataset whose images can be read in regions."""

    def image_id(self, index: int) -> int | str:
        """Return the id of image `index`."""
        ...

    def prepare_image(self, index: int) -> PreparedImage:
        """Open image `index` for reading in regions."""
        ...


@runtime_checkable
class ScalableDataset(Protocol):
    """Dataset that can prepare its images at another size."""

    def at_scale(self, factor: float) -> Dataset[Sample]:
        """Return the same dataset with images scaled by `factor`."""
        ...


class DatasetHandle:
    """Image of a dataset, for a predictor.

    Args:
        dataset: Samples without augmentation.
        index: Position of the image.
    """

    def __init__(self, dataset: Dataset[Sample], index: int) -> None:
        self._dataset, self._index = dataset, index
        self._sample: Sample | None = None

    @property
    def image_id(self) -> int | str:
        """Id of the image in its dataset."""
        if isinstance(self._dataset, ReadsRegions):
            return self._dataset.image_id(self._index)
        return self._load().image_id

    @property
    def name(self) -> str:
        """Name of the image in messages."""
        return str(self.image_id)

    def read(self, scale: float = 1.0) -> InputImage:
        """Read the sample of the image.

        Raises:
            DataError: If the image cannot be read, or the dataset cannot scale its images.
        """
        sample = self._load() if scale == 1.0 else self._rescale(scale)[self._index]
        return InputImage(sample.image.permute(1, 2, 0).numpy(), sample.geometry)

    def open(self) -> PreparedImage:
        """Open the image for reading in regions.

        Raises:
            DataError: If the dataset cannot read regions of images.
        """
        if not isinstance(self._dataset, ReadsRegions):
            raise DataError(
                f"{type(self._dataset).__name__} has no prepare_image(index), which sliding "
                "windows need; evaluate whole images"
            )
        return self._dataset.prepare_image(self._index)

    def _load(self) -> Sample:
        if self._sample is None:
            self._sample = self._dataset[self._index]
        return self._sample

    def _rescale(self, factor: float) -> Dataset[Sample]:
        if not isinstance(self._dataset, ScalableDataset):
            raise DataError(
                f"{type(self._dataset).__name__} has no at_scale(factor), which views at other "
                "sizes need; use flips only"
            )
        return self._dataset.at_scale(factor)


class _PreparedImages(Dataset[Prepared]):
    """Images of a dataset, prepared for a predictor in loader workers."""

    def __init__(self, dataset: Dataset[Sample], predictor: Predictor) -> None:
        self._dataset = dataset.as_uint8() if isinstance(dataset, SupportsUint8) else dataset
        self._predictor = predictor

    def __getitem__(self, index: int) -> Prepared:
        return self._predictor.prepare(DatasetHandle(self._dataset, index))


def predict_dataset(
    predictor: Predictor,
    dataset: Dataset[Sample],
    batch_size: int,
    *,
    workers: int = 0,
    process_group: ProcessGroup = SingleProcess(),
) -> Iterator[ImagePrediction]:
    """Predict the images of a dataset, in their order.

    Args:
        predictor: Predictor of a model.
        dataset: Samples without augmentation.
        batch_size: Images per forward pass; images that are read in regions are predicted one by
            one.
        workers: Number of loader processes.
        process_group: Processes that share the images.

    Yields:
        Position and predictions of each image; in a process group only in process 0.
    """
    length = len(dataset)  # type: ignore[arg-type]
    chunk_size = process_group.count if predictor.reads_regions else batch_size
    batches = [list(range(i, min(i + chunk_size, length))) for i in range(0, length, chunk_size)]
    parts = [get_shard(batch, process_group.index, process_group.count) for batch in batches]
    for predictions in _predict_parts(predictor, dataset, parts, workers=workers):
        yield from chain.from_iterable(process_group.collect(predictions))


def _predict_parts(
    predictor: Predictor,
    dataset: Dataset[Sample],
    parts: Sequence[Sequence[int]],
    *,
    workers: int,
) -> Iterator[list[ImagePrediction]]:
    """Predict the images of every part, in order."""
    images = _PreparedImages(dataset, predictor)
    # Open files cannot be passed between processes.
    workers = 0 if predictor.reads_regions else workers
    prepared = iter(make_item_loader(images, [part for part in parts if part], workers=workers))
    for part in parts:
        results = predictor.predict(next(prepared)) if part else []
        yield list(zip(part, results, strict=True))
