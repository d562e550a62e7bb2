"""Head under test: its construction, its inputs, and reports of broken rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.heads.base import Head, HeadOptions
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.samples import Batch, BatchView
from resnet_tasks.structures.tasks import Task
from resnet_tasks.testing.random_batches import TargetMaker, random_batch, random_features


@dataclass(frozen=True)
class HeadUnderTest:
    """A head class with the arguments and targets that the rules use.

    Attributes:
        head_class: Class of the head.
        specs: Channels and stride of the offered levels.
        classes: Class names of the head.
        options: Options of the head; None for the defaults.
        targets: Function that makes the target of an image.
        uses_default_targets: Whether `targets` is `random_target`.
    """

    head_class: type[Head]
    specs: Mapping[str, FeatureSpec]
    classes: tuple[str, ...]
    options: HeadOptions | Mapping[str, Any] | None
    targets: TargetMaker
    uses_default_targets: bool

    @property
    def name(self) -> str:
        """Class name of the head, for error messages."""
        return self.head_class.__name__

    @property
    def task(self) -> Task:
        """Task of the head with these options."""
        return self.head_class.find_task(self.options)

    def build(self, *, training: bool, seed: int = 0) -> Head:
        """Build the head; the same seed gives the same weights."""
        torch.manual_seed(seed)
        head = self.head_class(self.specs, self.classes, self.options)
        return head.to(memory_format=torch.channels_last).train(training)

    def make_batch(self, **changes: Any) -> Batch:
        """Make a random batch; `changes` are arguments of `random_batch`."""
        changes = {"targets": self.targets, **changes}
        return random_batch(num_classes=len(self.classes), **changes)

    def make_view(self, batch: Batch, positions: Sequence[int] | None = None) -> BatchView:
        """Make the view of a batch in the labels of the head; `positions` selects images."""
        return batch.make_view(LabelTable.identity(self.classes), positions)

    def make_features(self, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
        """Make random features that fit a batch."""
        size = batch.padded_size
        return random_features(self.specs, batch_size=len(batch), padded_size=size, seed=seed)

    def require(self, condition: bool, rule: str) -> None:
        """Raise an `AssertionError` that names the head and the rule unless `condition` holds."""
        if not condition:
            raise AssertionError(f"head {self.name}: {rule}")

    @contextmanager
    def report_failures(self, activity: str) -> Iterator[None]:
        """Report an exception inside the context as a broken rule that names the activity."""
        try:
            yield
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"head {self.name}: {activity} raised {type(error).__name__}: {error}"
            ) from error
