"""Interface between a stream and a model: threads prepare images, one thread predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.inference.predictor import FileHandle, Predictor, Prepared
from resnet_tasks.structures.predictions.base import Prediction


class StreamPredictor(Protocol):
    """Predictor of a stream; `read` runs in several threads, `predict` in one.

    Attributes:
        preparation: Preparation of the images.
        batch_size: Images per forward pass.
        classes: Head name -> class names.
        category_ids: Head name -> category id of every label.
        categories: Categories of the dataset, as in a COCO file.
    """

    @property
    def preparation(self) -> Preparation: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def classes(self) -> Mapping[str, Sequence[str]]: ...  # noqa: D102
    @property
    def category_ids(self) -> Mapping[str, Sequence[int]]: ...  # noqa: D102
    @property
    def categories(self) -> Sequence[Mapping[str, Any]]: ...  # noqa: D102

    def read(self, source: Path | NDArray[Any], name: str) -> Prepared:
        """Read and prepare an image file or a frame; called by several threads at once.

        Args:
            source: Path of an image file, or `(h, w, C)` pixels of a frame.
            name: Name of the image in messages.

        Raises:
            DataError: If the image cannot be read.
        """
        ...

    def predict(self, images: Sequence[Prepared]) -> Sequence[Mapping[str, Prediction]]:
        """Predict images.

        Returns:
            Head name -> prediction in pixels of the image, for each image.

        Raises:
            DataError: If an image cannot be read.
        """
        ...


@dataclass(frozen=True)
class PredictorStream:
    """`StreamPredictor` that wraps a predictor, whether of a torch model or of an export.

    Attributes:
        predictor: Wrapped predictor.
        preparation: Preparation of the model's images.
        categories: Categories of the dataset, as in a COCO file.
        batch_size: Images per forward pass.
    """

    predictor: Predictor
    preparation: Preparation
    categories: Sequence[Mapping[str, Any]] = ()
    batch_size: int = 4

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return {name: head.classes for name, head in self.predictor.heads.items()}

    @property
    def category_ids(self) -> dict[str, tuple[int, ...]]:
        """Head name -> category id of every label."""
        return {name: head.category_ids for name, head in self.predictor.heads.items()}

    def read(self, source: Path | NDArray[Any], name: str) -> Prepared:
        """Read and prepare an image; see `StreamPredictor.read`.

        A file that is predicted in regions is only opened here, and read during prediction.
        """
        handle = FileHandle(source, self.preparation, name)
        if self.predictor.reads_regions:
            return self.predictor.prepare(handle)
        decoded = handle.load()  # the same pixels serve the prediction and the drawing
        return replace(self.predictor.prepare(decoded), image=decoded.open())

    def predict(self, images: Sequence[Prepared]) -> Sequence[Mapping[str, Prediction]]:
        """Predict images; see `StreamPredictor.predict`."""
        return self.predictor.predict(images)
