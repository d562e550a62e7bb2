"""The contract of a head: the only plug point of the package.

A head turns the features of a backbone into losses and into the outputs that its task declares. The
task decodes them to predictions; a head never sees the original images. It gets `dict[str,
FeatureSpec]` when it is built and `dict[str, Tensor]` when it runs, but never a backbone. None of
its methods reads `self.training` to choose the type of its result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict
from torch import Tensor, nn

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.arguments import check_classes, check_specs
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.options import DescribedModel, validate_options
from resnet_tasks.registry import Registry
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.tasks import Task, get_task


class HeadOptions(DescribedModel):
    """Base class of the options of all heads: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Head(nn.Module, ABC):
    """Base class of heads: modules that map features to losses and to outputs of their task.

    A subclass sets the three class attributes, calls `super().__init__` and implements `loss` and
    `forward`, and `outputs` if the raw output is not yet what the task declares.

    Attributes:
        Options: Class of the head's options, a frozen pydantic model.
        task: Name of the head's task, which declares its outputs and the annotations that its loss
            needs.
        in_levels: Feature levels that the head reads, finest first; see `levels`.
        foreign_weights: Reader of models of other libraries; the default reads none.

    Args:
        specs: Channels and stride of every level that the backbone (or a shared pyramid) offers.
        classes: Class names; a label inside the head is an index into them.
        options: Options of the head, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If an argument has another type, a level is missing, a stride cannot be used, or
            an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = HeadOptions
    task: ClassVar[str]
    in_levels: ClassVar[tuple[str, ...]]
    foreign_weights: ClassVar[ForeignWeights] = ForeignWeights()

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_specs(specs, type(self).__name__)
        check_classes(classes, type(self).__name__)
        self.options = self.parse_options(options)
        self.in_levels = self.levels(specs, self.options)  # type: ignore[misc]  # of this head
        missing = [level for level in self.in_levels if level not in specs]
        if missing:
            raise HeadError(
                f"head {type(self).__name__} reads the levels {', '.join(self.in_levels)}, but the "
                f"offered levels ({', '.join(specs)}) do not include {', '.join(missing)}; use a "
                "backbone or a shared pyramid with these levels"
            )
        self.specs = {level: specs[level] for level in self.in_levels}
        self.classes = tuple(classes)

    @classmethod
    def levels(
        cls,
        specs: Mapping[str, FeatureSpec],  # noqa: ARG003
        options: Any,  # noqa: ARG003
    ) -> tuple[str, ...]:
        """Return the feature levels that a head reads; default: `in_levels` of the class.

        Args:
            specs: Channels and stride of every offered level.
            options: Validated options of the head.

        Raises:
            HeadError: If the head cannot read the offered levels.
        """
        return cls.in_levels

    @classmethod
    def parse_options(cls, options: HeadOptions | Mapping[str, Any] | None) -> Any:
        """Validate the options of this head.

        Raises:
            HeadError: If a key is unknown or a value is invalid; the message lists all problems.
        """
        return validate_options(cls.Options, options, HeadError, f"head {cls.__name__}")

    @abstractmethod
    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the head's loss terms on a batch whose images are all annotated for it.

        Args:
            features: Level -> `(B, channels, H/stride, W/stride)`.
            view: Batch with the labels of this head.

        Returns:
            Term name -> (sum, count), computed in float32. The terms are finite and have a gradient
            even if no image contains an object.
        """

    @abstractmethod
    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the raw output: traceable, with the same names and ranks for every input."""

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Convert the raw output to the outputs that the head's task declares.

        The default returns the raw output. The method is traceable, like `forward`: its shapes
        depend on the shapes of its inputs only. Non-maximum suppression belongs here.

        Args:
            raw: Result of `forward`.
            sizes: `(B, 2)` int64 (height, width) of each image inside the padded batch. Outputs
                describe the image, not its padding.

        Returns:
            Output name -> tensor, in pixels of the batch; see `Task.outputs`.
        """
        del sizes
        return dict(raw)

    def prepare_for_inference(self) -> None:
        """Precompute what `forward` would otherwise recompute in every call with constant weights.

        It is called on heads that only predict afterwards. Their outputs stay identical to the bit.
        """

    def check_labels(self, labels: Sequence[int], image_id: int | str) -> None:
        """Check before training that the loss can learn from the image-level labels of an image.

        It is called for every annotated image if the head's task requires image-level labels.

        Args:
            labels: Labels of the head, `IGNORED` for those that it does not know.
            image_id: Id of the image, for the error message.

        Raises:
            DataError: If the loss would reject the labels.
        """

    @classmethod
    def find_task(cls, options: Mapping[str, Any] | HeadOptions | None = None) -> Task:
        """Return the task of a head with these options, before it is built.

        Raises:
            HeadError: If no task of that name is registered, or an option is invalid.
        """
        del options
        return get_task(cls.task)

    @property
    def task_spec(self) -> Task:
        """Task of this head."""
        return get_task(self.task)


HEADS: Registry[type[Head]] = Registry("head", group="resnet_tasks.heads")
"""Registry of head classes by their name in a recipe (`type:`)."""

HeadClass = TypeVar("HeadClass", bound=type[Head])


def register_head(name: str) -> Callable[[HeadClass], HeadClass]:
    """Register the decorated head class, so that recipes can use it as `type: name`.

    Raises:
        ResnetTasksError: If the name is already registered for another head.
    """
    return HEADS.register(name)
