"""Combiners: predictions of several heads -> one prediction, without weights and without a loss.

Examples are panoptic segmentation from instances and a semantic map, and instances from a semantic
map by a watershed. The combined prediction has its own name, and is evaluated, drawn, written and
reported like that of a head. A combiner works on numpy arrays, after windows and test-time
augmentation, so it behaves the same for torch models and for exported ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict

from resnet_tasks.errors import HeadError
from resnet_tasks.inference.predictor import ImageHandle, Predictor, Prepared
from resnet_tasks.options import DescribedModel, validate_options
from resnet_tasks.registry import Registry
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.predictions.base import Prediction


class CombinerOptions(DescribedModel):
    """Base class of the options of combiners: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Combiner(ABC):
    """Function of the predictions of several heads for one image.

    A subclass sets the class attributes and implements `list_classes` and `combine`.

    Attributes:
        Options: Class of the options, a frozen pydantic model.
        roles: Role -> name of the task of the head in that role.
        task: Name of the task of the combined prediction, which determines how it is evaluated.

    Args:
        heads: Role -> head in that role.
        options: Options, a mapping of them, or None for the defaults.

    Raises:
        HeadError: If an option is invalid.
    """

    Options: ClassVar[type[CombinerOptions]] = CombinerOptions
    roles: ClassVar[Mapping[str, str]]
    task: ClassVar[str]

    def __init__(
        self,
        heads: Mapping[str, HeadInfo],
        options: CombinerOptions | Mapping[str, Any] | None = None,
    ) -> None:
        self.heads = dict(heads)
        self.options = self.parse_options(options)

    @classmethod
    def parse_options(cls, options: CombinerOptions | Mapping[str, Any] | None) -> Any:
        """Validate the options of this combiner.

        Raises:
            HeadError: If a key is unknown or a value is invalid; the message lists all problems.
        """
        return validate_options(cls.Options, options, HeadError)

    @abstractmethod
    def list_classes(self) -> tuple[str, ...]:
        """Return the class names of the combined prediction, from those of its heads."""

    @abstractmethod
    def combine(self, predictions: Mapping[str, Any], size: tuple[int, int]) -> Prediction:
        """Combine the predictions of one image.

        Args:
            predictions: Role -> prediction with numpy arrays, in original pixels.
            size: (height, width) of the original image, pixels.
        """


COMBINERS: Registry[type[Combiner]] = Registry("combiner", group="resnet_tasks.combiners")
"""Registry of combiner classes by their name in a recipe (`combine.NAME.type`)."""

CombinerClass = TypeVar("CombinerClass", bound=type[Combiner])


def register_combiner(name: str) -> Callable[[CombinerClass], CombinerClass]:
    """Register the decorated combiner class, so that recipes can use it as `type: name`.

    Raises:
        ResnetTasksError: If the name is already registered for another combiner.
    """
    return COMBINERS.register(name)


@dataclass(frozen=True)
class CombinedHead:
    """Combiner of a model, with the heads that it reads.

    Attributes:
        combiner: Combiner.
        roles: Role -> name of the head in that role.
        info: Task, classes, category ids and label table of the combined prediction.
    """

    combiner: Combiner
    roles: Mapping[str, str]
    info: HeadInfo


@dataclass(frozen=True)
class CombiningPredictor:
    """Predictor that adds the predictions of combiners to those of the heads.

    Attributes:
        predictor: Predictor of the heads.
        combined: Name -> combiner and the heads that it reads.
    """

    predictor: Predictor
    combined: Mapping[str, CombinedHead]

    @property
    def heads(self) -> dict[str, HeadInfo]:
        """Name -> description, of the heads and then of the combined predictions."""
        return {
            **self.predictor.heads,
            **{name: combined.info for name, combined in self.combined.items()},
        }

    @property
    def reads_regions(self) -> bool:
        """True if images are read in regions, one image at a time."""
        return self.predictor.reads_regions

    def prepare(self, handle: ImageHandle) -> Prepared:
        """Read and prepare an image for the heads."""
        return self.predictor.prepare(handle)

    def predict(self, images: Sequence[Prepared]) -> list[ImageResult]:
        """Predict prepared images with the heads, and combine their predictions."""
        heads = self.heads
        return [
            ImageResult(
                {**result.predictions, **self._combine(result)},
                heads,
                result.image_id,
                result.name,
                result.size,
            )
            for result in self.predictor.predict(images)
        ]

    def _combine(self, result: ImageResult) -> dict[str, Prediction]:
        return {
            name: combined.combiner.combine(
                {role: result[head].to_numpy() for role, head in combined.roles.items()},
                result.size,
            )
            for name, combined in self.combined.items()
        }


def add_combiners(predictor: Predictor, combined: Mapping[str, CombinedHead]) -> Predictor:
    """Wrap a predictor in combiners; return the predictor itself if there are none."""
    return CombiningPredictor(predictor, combined) if combined else predictor
