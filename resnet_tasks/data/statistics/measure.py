"""Statistics of a dataset: channel values, sizes, objects and class pixels.

Images are read one at a time. Sums are kept in float64 and merged image by image (Chan, Golub,
LeVeque: Updating formulae and a pairwise algorithm for computing sample variances, 1979).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import Annotation
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.ground_truth import map_image_labels
from resnet_tasks.data.datasets.stored_images import read_stored_image
from resnet_tasks.data.images.bit_depths import BitDepths, find_largest
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.rare_classes import ClassCounts
from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import UNLABELED, VOID
from resnet_tasks.structures.label_table import LabelTable

Constants = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""
Advance = Callable[[int, int], None]
"""Progress callback, called with (done, total)."""

AREA_LIMITS = (32**2, 96**2)
"""Pixels². COCO's small objects are below the first limit, its large objects above the second."""
BINS = 256
"""Number of bins of a channel's histogram over 0..1."""
HEAT_CELLS = 32
"""Number of cells per side of the heat map of box centers."""


class ChannelMoments:
    """Mean, variance, range and histogram of each channel over all added pixels.

    Attributes:
        pixels: Number of added pixels.
        histogram: `(C, BINS)` int64 counts of the values 0..1.
    """

    def __init__(self) -> None:
        self.pixels = 0
        self._mean = np.zeros(0)
        self._squares = np.zeros(0)  # sum of squared deviations from the mean
        self._low = np.zeros(0)
        self._high = np.zeros(0)
        self.histogram = np.zeros((0, BINS), np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Add the pixels of one image, `(h, w, C)` float32 in 0..1."""
        flat = values.reshape(-1, values.shape[2]).astype(np.float64)
        count, mean = len(flat), flat.mean(axis=0)
        squares = ((flat - mean) ** 2).sum(axis=0)
        bins = np.minimum((flat * BINS).astype(np.int64), BINS - 1)
        counts = np.stack([np.bincount(column, minlength=BINS) for column in bins.T])
        if self.pixels == 0:
            self.pixels, self._mean, self._squares = count, mean, squares
            self._low, self._high = flat.min(axis=0), flat.max(axis=0)
            self.histogram = counts
            return
        total, shift = self.pixels + count, mean - self._mean
        self._squares += squares + shift**2 * (self.pixels * count / total)
        self._mean += shift * (count / total)
        self._low = np.minimum(self._low, flat.min(axis=0))
        self._high = np.maximum(self._high, flat.max(axis=0))
        self.histogram += counts
        self.pixels = total

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean per channel, 0..1."""
        return tuple(self._mean.tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation per channel, of the population and not of a sample."""
        return tuple(np.sqrt(self._squares / max(self.pixels, 1)).tolist())

    @property
    def low(self) -> tuple[float, ...]:
        """Minimum per channel."""
        return tuple(self._low.tolist())

    @property
    def high(self) -> tuple[float, ...]:
        """Maximum per channel."""
        return tuple(self._high.tolist())


@dataclass
class ValueRange:
    """Number of images of one data type and the range of their stored values."""

    images: int = 0
    low: float = float("inf")
    high: float = float("-inf")

    def add(self, image: NDArray[Any]) -> None:
        """Add one image."""
        self.images += 1
        self.low = min(self.low, float(image.min()))
        self.high = max(self.high, float(image.max()))


@dataclass
class DatasetStatistics:
    """Statistics of a COCO file.

    Attributes:
        images: Number of images.
        sizes: (height, width) -> number of images.
        value_ranges: Data type of the stored values -> their range.
        depths: Number of images of every bit depth.
        channels: Moments over the images that the intensity step could map to 0..1.
        unplaced: Number of images that the intensity step could not map, because `auto` does not
            know the range of their data type.
        objects: Class name -> number of objects with a box, without crowds.
        crowds: Number of crowd regions.
        per_image: Number of objects with a box in every image, without crowds.
        boxes: `(N, 4)` float64 x, y, width, height of the objects, pixels of the original image.
        centers: `(HEAT_CELLS, HEAT_CELLS)` int64 number of boxes by their center, relative to the
            image size.
        areas: `(N,)` float64 areas in pixels² as in the file.
        image_labels: Class name -> number of images with it as an image-level label.
        class_pixels: Class name -> number of pixels in label maps or rasterized instances; None if
            no pixels are annotated.
        void_pixels: Number of pixels that are unlabeled or void.
        groups: Number of patients, studies or sequences; 0 if the file has none.
        subgroups: Key -> subgroup -> images and objects; see `count_subgroups`.
    """

    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    value_ranges: dict[str, ValueRange] = field(default_factory=dict)
    depths: BitDepths = field(default_factory=BitDepths)
    channels: ChannelMoments = field(default_factory=ChannelMoments)
    unplaced: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    crowds: int = 0
    per_image: list[int] = field(default_factory=list)
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    centers: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((HEAT_CELLS, HEAT_CELLS), np.int64)
    )
    areas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    image_labels: dict[str, int] = field(default_factory=dict)
    class_pixels: dict[str, int] | None = None
    void_pixels: int = 0
    groups: int = 0
    subgroups: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def by_size(self) -> tuple[int, int, int]:
        """Number of small, medium and large objects by COCO's limits."""
        small, large = AREA_LIMITS
        is_small, is_large = self.areas < small, self.areas > large
        return (int(is_small.sum()), int((~is_small & ~is_large).sum()), int(is_large.sum()))

    @property
    def sides(self) -> NDArray[np.float64]:
        """`(N,)` square root of width times height, comparable to the size of an anchor."""
        return np.sqrt(self.boxes[:, 2] * self.boxes[:, 3])

    @property
    def aspect_ratios(self) -> NDArray[np.float64]:
        """`(N,)` height / width, as in the option `aspect_ratios` of Faster R-CNN."""
        return self.boxes[:, 3] / self.boxes[:, 2]


def measure_channels(dataset: CocoDataset, advance: Advance | None = None) -> Constants:
    """Return the mean and standard deviation per channel of a dataset after its intensity step.

    Every pixel of the stored images has the same weight. Resizing and augmentation are not applied.

    Args:
        dataset: Dataset whose images are read.
        advance: Progress callback.

    Raises:
        DataError: If more images cannot be read or mapped to 0..1 than the dataset may skip (by
            default none), or if a channel is constant.
    """

    def read_pixels(index: int) -> NDArray[np.float32]:
        pixels = read_stored_image(dataset.preparation, *dataset.image_index.record(index))
        return dataset.preparation.intensity(pixels, str(dataset.path(index)))

    moments = ChannelMoments()
    for _, values in _iter_readable(dataset, read_pixels, advance):
        moments.add(values)
    for channel, std in enumerate(moments.std):
        if std == 0:
            raise DataError(
                f"channel {channel} of the {len(dataset)} images of {dataset.files[0].path} is "
                f"{moments.mean[channel]:g} everywhere, so it cannot be normalized by the data; "
                "set data.normalize=weights, or remove the channel from the images"
            )
    return moments.mean, moments.std


def count_classes(
    dataset: CocoDataset, table: LabelTable, fields: Collection[str], advance: Advance | None = None
) -> ClassCounts:
    """Return the frequency of a head's classes in a training epoch, as pixels or image labels.

    Args:
        dataset: Dataset whose label maps are read.
        table: Mapping from the dataset's categories to the labels of the head.
        fields: Fields of `Target` that the head's task requires: image labels are counted if
            `image_labels` is among them, else pixels.
        advance: Progress callback.

    Raises:
        DataError: If more label maps cannot be read than the dataset may skip.
    """

    def read_labels(index: int) -> NDArray[Any]:
        if "image_labels" in fields:
            labels = map_image_labels(*dataset.image_index.record(index), table.mapping)
            return np.asarray(labels or (), np.int64)
        semantic = dataset.truth(index, table).semantic
        return np.zeros(0, np.int64) if semantic is None else semantic

    counts, repeats = ClassCounts(len(table.classes)), dataset.epoch_sampler.repeats
    for index, image_labels in _iter_readable(dataset, read_labels, advance):
        counts.add(image_labels, 1.0 if repeats is None else float(repeats[index]))
    return counts


def _iter_readable(
    dataset: CocoDataset, read: Callable[[int], NDArray[Any]], advance: Advance | None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the index and the result of `read` for every image, skipping unreadable ones.

    Raises:
        DataError: If more images are unreadable than the dataset may skip.
    """
    bad = 0
    for index in range(len(dataset)):
        try:
            values = read(index)
        except DataError:
            bad += 1
            if bad > dataset.max_unreadable_images:
                raise
        else:
            yield index, values
        if advance:
            advance(index + 1, len(dataset))


def compute_dataset_statistics(
    coco: CocoFile,
    *,
    channels: int = 3,
    intensity: Intensity | None = None,
    advance: Advance | None = None,
) -> DatasetStatistics:
    """Compute the statistics of a COCO file, reading its images and label maps once.

    Args:
        coco: Parsed file.
        channels: Number of channels of the images, as in a recipe's `data.channels`.
        intensity: Step that maps stored values to 0..1.
        advance: Progress callback.

    Raises:
        DataError: If an image or map is missing or unreadable, has a size other than in the file or
            another number of channels, or has non-finite values.
    """
    step = intensity or Intensity()
    preparation = Preparation(channels, intensity=step)
    dataset = CocoDataset([coco], categories=coco.categories, preparation=preparation, cache=False)
    statistics = DatasetStatistics(images=len(coco.images))
    _count_annotations(statistics, coco)
    has_pixels = bool({"semantic", "masks"} & coco.annotated)
    pixels: Counter[int] = Counter()
    # Counting unlabeled and void pixels separately would need another label. Neither contributes
    # to a loss, so one count is enough.
    table = LabelTable.identity(coco.categories.names)
    for index in range(len(dataset)):
        image = read_stored_image(preparation, *dataset.image_index.record(index))
        image_name = str(dataset.path(index))
        statistics.sizes[image.shape[0], image.shape[1]] += 1
        _add_values(statistics, image, step, image_name)
        statistics.depths.add(dataset.path(index), coco.images[index].extra)
        statistics.depths.add_largest(find_largest(image))
        semantic = dataset.truth(index, table).semantic if has_pixels else None
        if semantic is not None:
            labels, counts = np.unique(semantic, return_counts=True)
            pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
        if advance:
            advance(index + 1, len(dataset))
    if has_pixels:
        names = coco.categories.names
        statistics.class_pixels = {name: pixels[label] for label, name in enumerate(names)}
        statistics.void_pixels = pixels[VOID] + pixels[UNLABELED]
    return statistics


def _add_values(
    statistics: DatasetStatistics, image: NDArray[Any], step: Intensity, image_name: str
) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DataError(f"{image_name} holds values that are not finite; repair the file")
    statistics.value_ranges.setdefault(str(image.dtype), ValueRange()).add(image)
    try:
        values = step(image, image_name)
    except DataError:
        statistics.unplaced += 1  # `auto` on a type whose range it does not know
        return
    statistics.channels.add(values)


def _count_annotations(statistics: DatasetStatistics, coco: CocoFile) -> None:
    names = coco.categories.names
    objects: Counter[int] = Counter()
    label_counts: Counter[int] = Counter()
    annotations: list[Annotation] = []
    for record in coco.images:
        boxed = [
            annotation for annotation in coco.annotations[record.id] if annotation.bbox is not None
        ]
        single = [annotation for annotation in boxed if not annotation.is_crowd]
        statistics.crowds += len(boxed) - len(single)
        statistics.per_image.append(len(single))
        objects.update(annotation.category for annotation in single)
        labels = coco.annotations[record.id] if "image" in coco.annotated else ()
        label_counts.update(
            {annotation.category for annotation in labels if annotation.bbox is None}
        )
        annotations += single
        _add_centers(statistics.centers, single, (record.height, record.width))
    statistics.objects = {name: objects[i] for i, name in enumerate(names)}
    if label_counts:
        statistics.image_labels = {name: label_counts[i] for i, name in enumerate(names)}
    statistics.boxes = np.asarray(
        [annotation.bbox for annotation in annotations], np.float64
    ).reshape(-1, 4)
    statistics.areas = np.asarray([annotation.area for annotation in annotations], np.float64)
    statistics.groups = len({record.group for record in coco.images if record.group is not None})


def _add_centers(
    heat: NDArray[np.int64], objects: Sequence[Annotation], size: tuple[int, int]
) -> None:
    for annotation in objects:
        assert annotation.bbox is not None
        x, y, width, height = annotation.bbox
        row, column = ((y + height / 2) / size[0], (x + width / 2) / size[1])
        heat[
            int(np.clip(row * HEAT_CELLS, 0, HEAT_CELLS - 1)),
            int(np.clip(column * HEAT_CELLS, 0, HEAT_CELLS - 1)),
        ] += 1
