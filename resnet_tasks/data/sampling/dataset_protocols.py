"""What a data set may know beyond its samples; training and evaluation ask for it by protocol."""

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
    """A data set that knows its annotations in the frame of the original images."""

    def truth(self, index: int, table: LabelTable) -> GroundTruth:
        """What is annotated on image `index`, in the labels of one head."""
        ...


@runtime_checkable
class HasGroups(Protocol):
    """A data set that knows which of its images belong together."""

    def group(self, index: int) -> str | None:
        """Patient, study or sequence of image `index`; None where it has none."""
        ...


@runtime_checkable
class HasEpochs(Protocol):
    """A data set whose samples change from epoch to epoch.

    Attributes:
        repeats: `(N,)` how often each comes in an epoch, on average; None: once.
    """

    repeats: NDArray[np.float64] | None

    def batch_keys(
        self,
        epoch: int,
        number: int,
        positions: Sequence[int],
        visits: Sequence[int] | None = None,
    ) -> list[Key]:
        """Keys of one training batch; see `CocoDataset.batch_keys`."""
        ...


@runtime_checkable
class SupportsUint8(Protocol):
    """A data set whose samples may hold 8 bits that stand for 0..1 (`Sample.image`)."""

    def as_uint8(self) -> Dataset[Sample]:
        """The same samples, in 8 bits where that is exact: a quarter of the memory to move."""
        ...


@runtime_checkable
class SkipsUnreadableImages(Protocol):
    """A data set that knows how many of its images may be unreadable.

    Attributes:
        preparation: Of its images.
        unreadable_image_limit: Share that is left out of training; None: each is an error.
    """

    @property
    def preparation(self) -> Preparation: ...  # noqa: D102
    @property
    def unreadable_image_limit(self) -> float | None: ...  # noqa: D102
    @property
    def max_unreadable_images(self) -> int: ...  # noqa: D102
