"""Optional capabilities of datasets, which training and evaluation query by protocol."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch.utils.data import Dataset

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Sample


@runtime_checkable
class HasTruth(Protocol):
    """Protocol of a dataset with ground truth in pixels of the original images."""

    def truth(self, index: int, table: LabelTable) -> GroundTruth:
        """Return the ground truth of image `index` in the labels of one head."""
        ...


@runtime_checkable
class HasGroups(Protocol):
    """Protocol of a dataset that knows the groups of its images."""

    def group(self, index: int) -> str | None:
        """Return the patient, study or sequence of image `index`, or None if it has none."""
        ...


@runtime_checkable
class HasEpochs(Protocol):
    """Protocol of a dataset whose samples, by `SampleKey`, change from epoch to epoch.

    Attributes:
        epoch_sampler: Sampler of the batches of its training epochs.
    """

    epoch_sampler: EpochSampler


@runtime_checkable
class SupportsUint8(Protocol):
    """Protocol of a dataset whose samples may be uint8 that represents 0..1 (`Sample.image`)."""

    def as_uint8(self) -> Dataset[Sample]:
        """Return the same samples, as uint8 where that is exact (a quarter of the memory)."""
        ...


@runtime_checkable
class SkipsUnreadableImages(Protocol):
    """Protocol of a dataset that skips a limited number of unreadable images.

    Attributes:
        preparation: Preparation of its images.
        max_unreadable_images: Maximum number of images that are skipped in training; 0: each is an
            error.
    """

    preparation: Preparation
    max_unreadable_images: int
