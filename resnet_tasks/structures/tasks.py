"""Tasks: the outputs that a head declares, and everything that follows from them.

A head names its task by a string; `get_task` finds it. The tasks of this package are in `tasks/`,
those of plug-ins are registered by `register_task`, by an entry point of the group
`resnet_tasks.tasks`, or by a module that a recipe lists under `plugins:`.

Shape glossary: `B` images, `D` detections, `K` classes, `H, W` the padded batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from resnet_tasks.errors import DataError, HeadError, ResnetTasksError
from resnet_tasks.registry import Registry
from resnet_tasks.structures.evaluation import VOID, Evaluator, GroundTruth
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.base import Canvas, Prediction
from resnet_tasks.structures.predictions.truth_drawing import draw_annotations

if TYPE_CHECKING:
    from resnet_tasks.structures.label_table import LabelTable

Outputs = Mapping[str, Any]
"""Output name -> array; numpy arrays or tensors, the first axis is the batch."""
BoxXyxy = tuple[float, float, float, float]


@dataclass(frozen=True)
class WindowLayout:
    """Positions of the overlapping windows that an image is predicted in.

    Attributes:
        size: (height, width) of the prepared image that the windows lie in, pixels.
        original_size: (height, width) of the original image, pixels.
        rows: First row of each row of windows, prepared pixels.
        columns: First column of each column of windows, prepared pixels.
        window_size: (height, width) of a window, prepared pixels.
        iou: IoU above which objects of two windows are the same object.
        keep: Values per pixel to keep in maps: `labels`, also their `confidence`, or the `probs`
            of all classes.
        num_classes: Number of classes of the head.
    """

    size: tuple[int, int]
    original_size: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    window_size: tuple[int, int]
    iou: float
    keep: str
    num_classes: int

    def to_original(self, box: tuple[int, int, int, int]) -> BoxXyxy:
        """Map the xyxy position of a window to original pixels."""
        scale_y = self.original_size[0] / self.size[0]
        scale_x = self.original_size[1] / self.size[1]
        return (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)


class WindowMerger(Protocol):
    """Merger of the outputs of the windows of one image, which arrive row by row."""

    def add(
        self, boxes: Sequence[tuple[int, int, int, int]], outputs: Outputs, geometries: Any
    ) -> None:
        """Add a batch of windows.

        Args:
            boxes: xyxy of each window in the prepared image, pixels.
            outputs: Outputs of the head for these windows.
            geometries: `Geometry` of each window, to the original image.
        """
        ...

    def finish(self) -> Prediction:
        """Return the prediction for the whole image, after all windows were added."""
        ...


@dataclass(frozen=True)
class ExplainedOutput:
    """Scalar output that an explanation differentiates.

    Attributes:
        value: Scalar tensor with gradient, a logit.
        label: Label that it supports.
        box: xyxy of the explained object, pixels of the original image; None for a whole image.
        score: Score of the explained prediction, 0..1; None if predictions of the task have none.
    """

    value: Any
    label: int
    box: BoxXyxy | None = None
    score: float | None = None


@dataclass(frozen=True)
class ExplainedQuestion:
    """Prediction to explain.

    Attributes:
        label: Label of the head; None: the label of the box, or the strongest one.
        box: xyxy, pixels of the original image; None: the strongest prediction of the image.
        classes: Class names of the head.
    """

    label: int | None
    box: BoxXyxy | None
    classes: Sequence[str]


class DecisionCollector(Evaluator, Protocol):
    """Evaluator that collects decisions, to which a scaling of the outputs is fitted."""

    number: int
    """Number of decisions."""

    def fit(self) -> Any:
        """Return the fitted scaling of the outputs.

        Raises:
            DataError: If it cannot be fitted.
        """
        ...


class Task(ABC):
    """Task of a head: how its outputs become predictions, and how these are used.

    A subclass sets the class attributes and implements `decode` and `build_evaluator`. All other
    methods are optional. A task without one of them refuses only that capability, with an error
    message. Methods take numpy arrays or torch tensors and run without torch, so that exported
    models share them.

    Attributes:
        name: Name that heads give as their `task`.
        required_fields: Fields of `Target` without which an image does not train the head. A field
            that `Target` does not have is looked up in `Target.extra`.
        optional_fields: Further fields that the loss reads where an image has them.
        outputs: Declared outputs: name -> axes, with `B` first. A letter stands for a length that
            may differ between inputs, a number for a fixed length. `B` images, `K` classes and
            `H, W` have the same meaning in every task.
        output_types: Name of the dtype of outputs that are not float32.
        prediction: Type of the predictions.
        main_metric: Metric that selects the best checkpoint unless the recipe names one.
        evaluator_families: Names of the tasks whose additional evaluators accept the predictions,
            besides those of this task.
        is_whole_image: Whether a prediction describes the image as a whole, so that an image must
            not be cut into windows or changed by copy-paste.
        has_background: Whether a class `background` may be inserted at label 0.
        includes_stuff: Whether a head without `classes:` gets all categories, also those that are
            not countable objects (`isthing: 0`).
        pipeline_tag: Name of the task on the Hugging Face Hub; None if it has none.
    """

    name: ClassVar[str]
    required_fields: ClassVar[tuple[str, ...]]
    optional_fields: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]]
    output_types: ClassVar[Mapping[str, str]] = {}
    prediction: ClassVar[type[Prediction]]
    main_metric: ClassVar[str]
    evaluator_families: ClassVar[tuple[str, ...]] = ()
    is_whole_image: ClassVar[bool] = False
    has_background: ClassVar[bool] = False
    includes_stuff: ClassVar[bool] = True
    pipeline_tag: ClassVar[str | None] = None

    def __repr__(self) -> str:
        return type(self).__qualname__

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of `Target` that the loss reads."""
        return (*self.required_fields, *self.optional_fields)

    @abstractmethod
    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Any]:
        """Convert a head's outputs into one prediction per image, in original pixels.

        Args:
            outputs: Declared outputs of the head, in pixels of the padded batch.
            geometries: Mapping of each image of the batch to its original.
        """

    def find_output_problem(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], num_classes: int
    ) -> str | None:
        """Describe the first violated rule of the outputs' values in a sentence; None if all hold.

        The contract test of a head calls it, after it has checked names, axes and types.

        Args:
            outputs: Declared outputs of a head.
            sizes: (height, width) of each image inside the padded batch.
            num_classes: Number of classes of the head.
        """
        del outputs, sizes, num_classes
        return None

    @abstractmethod
    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the default evaluator of a head with these classes."""

    def build_calibration_evaluator(self, classes: Sequence[str]) -> Evaluator | None:
        """Create the evaluator of the calibration error; None if the default one includes it."""
        del classes
        return None

    def build_decision_collector(self) -> DecisionCollector | None:
        """Create the collector that a calibration is fitted with; None: cannot be calibrated."""
        return None

    def merge_views(self, predictions: Sequence[Any]) -> Any:
        """Merge the predictions of the views of one image, two or more.

        Raises:
            DataError: If predictions of this task cannot be merged.
        """
        raise DataError(
            f"predictions of type {type(predictions[0]).__name__} cannot be merged over views; "
            "predict without test-time augmentation"
        )

    def create_window_merger(self, head: str, layout: WindowLayout) -> WindowMerger:
        """Create the merger of the windows of one image.

        Args:
            head: Name of the head, for messages.
            layout: Positions of the windows.

        Raises:
            HeadError: If predictions of this task cannot be merged from windows.
        """
        del layout
        raise HeadError(
            f"head {head}: predictions of type {self.prediction.__name__} cannot be merged from "
            "windows; predict without windows (no data.tiles, evaluation.sliding or --tiles), or "
            "remove the head"
        )

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the scalar output of one image that an explanation differentiates.

        Args:
            outputs: Outputs of the head for one image, tensors with gradient.
            geometry: Mapping of the image to its original.
            question: Prediction to explain.

        Raises:
            DataError: If no prediction matches the question.
            HeadError: If predictions of this task cannot be explained.
        """
        del outputs, geometry, question
        raise HeadError(f"predictions of the task {self.name} cannot be explained")

    def draw_truth(self, canvas: Canvas, truth: GroundTruth, classes: Sequence[str]) -> None:
        """Draw the annotations that the task reads, in the style of its predictions.

        Args:
            canvas: Drawing surface.
            truth: Ground truth, with masks as compressed RLE.
            classes: Class names of the head.
        """
        draw_annotations(canvas, truth, classes, self.fields)

    def learns_background(self, table: LabelTable) -> bool:
        """Return whether the head learns from regions without annotation.

        Args:
            table: Mapping from the dataset's categories to the labels of the head.
        """
        return "boxes" in self.required_fields or (
            "semantic" in self.required_fields and table.unlabeled != VOID
        )

    def is_annotated(self, truth: GroundTruth) -> bool:
        """Return whether an image has all annotations that the task needs."""
        present = {
            "boxes": truth.boxes_xywh,
            "labels": truth.labels,
            "semantic": truth.semantic,
            "image_labels": truth.image_labels,
        }
        return all(
            present.get(name) is not None or name in truth.extra for name in self.required_fields
        )


class DescribedHead(Protocol):
    """Head as evaluators see it: `heads.base.Head`, or the `HeadInfo` of a predictor."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in label order."""
        ...

    @property
    def task_spec(self) -> Task:
        """Task of the head."""
        ...


TASKS: Registry[Task] = Registry("task", group="resnet_tasks.tasks")
"""Registry of tasks by name."""

TaskClass = TypeVar("TaskClass", bound=type[Task])


def register_task(task: TaskClass) -> TaskClass:
    """Register the decorated task class under its name, so that heads can name it.

    Raises:
        ResnetTasksError: If the name is already registered for another task.
    """
    TASKS.register(task.name)(task())
    return task


def get_task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        HeadError: If there is none; the message lists all names.
    """
    try:
        return TASKS.get(name)
    except ResnetTasksError as error:
        raise HeadError(str(error)) from None
