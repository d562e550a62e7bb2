"""Interface between a stream and a model: threads prepare images, one thread predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.visualization.thumbnails import make_overview


@dataclass(frozen=True)
class ReadyImage:
    """Image that is ready for prediction.

    Attributes:
        image: Image as stored, for drawings.
        ready: Input of the predictor.
    """

    image: PreparedImage
    ready: Any

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the stored image after EXIF orientation, pixels."""
        return self.image.original_size

    def render_overview(self) -> NDArray[np.uint8]:
        """Render the image as `(h', w', 3)` uint8 RGB for drawings."""
        return make_overview(self.image)


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

    def read(self, source: Path | NDArray[Any], name: str) -> ReadyImage:
        """Read and prepare an image file or a frame; called by several threads at once.

        Args:
            source: Path of an image file, or `(h, w, C)` pixels of a frame.
            name: Name of the image in messages.

        Raises:
            DataError: If the image cannot be read.
        """
        ...

    def predict(self, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
        """Predict images.

        Returns:
            Head name -> prediction in pixels of the image, for each image.

        Raises:
            DataError: If an image cannot be read.
        """
        ...
