"""Base class of predictions, and the drawing surface that they draw themselves on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar, cast

from numpy.typing import NDArray

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance

MAPS, OBJECTS, TEXT = 0, 1, 2
"""Values of `Prediction.drawing_order`: maps are drawn first, objects over them, then text."""


class Canvas(Protocol):
    """Image that predictions are drawn on; see `visualization.drawing.ImageCanvas`.

    Coordinates are pixels of the image, without the enlargement of small images.
    """

    def draw_map(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        """Blend an `(h, w)` label map over the image."""
        ...

    def draw_masks(
        self, masks: Iterable[tuple[int, int, NDArray[Any]]], labels: NDArray[Any]
    ) -> None:
        """Blend masks over the image.

        Args:
            masks: (left, top, `(h, w)` bool bitmap) of each mask; preferably an iterator, so that
                only one bitmap is in memory at a time.
            labels: `(N,)` labels of the masks.
        """
        ...

    def draw_boxes(
        self,
        boxes: NDArray[Any],
        labels: NDArray[Any],
        classes: Sequence[str],
        scores: NDArray[Any] | None,
    ) -> None:
        """Draw `(N, 4)` xyxy boxes with class names, and scores unless they are None."""
        ...

    def write_line(self, text: str, label: int = 0) -> None:
        """Write a line of text at the top left, in the color of a label."""
        ...


AnyPrediction = TypeVar("AnyPrediction", bound="Prediction")


class Prediction(ABC):
    """Prediction of one head for one image, in pixels of the original image.

    Arrays are torch tensors if a torch model predicted them, numpy arrays otherwise.
    """

    drawing_order: ClassVar[int] = TEXT

    @abstractmethod
    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Draw the prediction.

        Args:
            canvas: Drawing surface.
            classes: Class names of the head.
            min_score: Minimum score of drawn objects and labels.
            prefix: Prefix of text lines; the name of the head if several heads write lines.
        """

    @abstractmethod
    def compare(self, other: Any, tolerance: Tolerance, difference: OutputDifference) -> None:
        """Add the differences to another prediction for the same image to `difference`.

        Args:
            other: Prediction of the same type.
            tolerance: Differences up to which two objects match.
            difference: Differences of the head, which are updated.
        """

    def find_problem(self, size: tuple[int, int], num_classes: int) -> str | None:
        """Describe the first violated rule of the type in a sentence; None if all hold.

        Args:
            size: (height, width) of the original image, pixels.
            num_classes: Number of classes of the head.
        """
        del size, num_classes
        return None

    def to_numpy(self: AnyPrediction) -> AnyPrediction:
        """Return the prediction with numpy arrays on the CPU."""
        arrays: dict[str, Any] = {
            name: as_array(value) for name, value in vars(self).items() if hasattr(value, "detach")
        }
        return replace(cast("Any", self), **arrays) if arrays else self

    def to_results(
        self, image_id: int | str, category_ids: Sequence[int], min_score: float = 0.0
    ) -> list[dict[str, Any]] | None:
        """Return the entries of a results file for this image.

        Args:
            image_id: Id of the image.
            category_ids: Category id of every label.
            min_score: Minimum score of listed classes, for predictions of whole images.

        Returns:
            Plain values with the key `image_id`; None if the prediction is stored as an image.
        """
        del image_id, category_ids, min_score
        return None

    def to_label_image(self, category_ids: Sequence[int]) -> NDArray[Any] | None:
        """Return the `(h, w)` image of category ids to store; None if there is none."""
        del category_ids
        return None

    def filter_by_score(self: AnyPrediction, min_score: float | Sequence[float]) -> AnyPrediction:
        """Return the objects with a minimum score; predictions without objects are unchanged.

        Args:
            min_score: Minimum score for all objects, or one per label.
        """
        del min_score
        return self

    def resize(
        self: AnyPrediction, ratio: tuple[float, float], size: tuple[int, int]
    ) -> AnyPrediction:
        """Return the prediction in pixels of a downscaled drawing of its image.

        Args:
            ratio: (y, x) pixels of the drawing per pixel of the image.
            size: (height, width) of the drawing, pixels.
        """
        del ratio, size
        return self


def are_labels(labels: NDArray[Any], num_classes: int) -> bool:
    """Return whether all values are indices into the classes of a head."""
    return bool(((labels >= 0) & (labels < num_classes)).all())
