"""Optional capabilities of datasets, which training and evaluation query by protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.sample_keys import Key
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
    """Protocol of a dataset whose samples change from epoch to epoch.

    Attributes:
        repeats: `(N,)` float64 average number of times each sample occurs in an epoch; None: once.
    """

    repeats: NDArray[np.float64] | None

    def batch_keys(
        self,
        epoch: int,
        number: int,
        positions: Sequence[int],
        visits: Sequence[int] | None = None,
    ) -> list[Key]:
        """Return the keys of one training batch; see `CocoDataset.batch_keys`."""
        ...


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
        unreadable_image_limit: Fraction of images that may be skipped in training; None: each is an
            error.
        max_unreadable_images: Maximum number of unreadable images.
    """

    @property
    def preparation(self) -> Preparation: ...  # noqa: D102
    @property
    def unreadable_image_limit(self) -> float | None: ...  # noqa: D102
    @property
    def max_unreadable_images(self) -> int: ...  # noqa: D102
