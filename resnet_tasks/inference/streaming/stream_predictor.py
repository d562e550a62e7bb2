"""What a stream needs of a model: images made ready by one thread, predicted by another."""

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
    """An image that was read.

    Attributes:
        image: As stored, to draw on.
        ready: What the predictor takes.
    """

    image: PreparedImage
    ready: Any

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) as stored, upright."""
        return self.image.original_size

    def render_overview(self) -> NDArray[np.uint8]:
        """`(h', w', 3)` RGB to draw on."""
        return make_overview(self.image)


class StreamPredictor(Protocol):
    """A model as a stream uses it; reads in threads, predicts in one.

    Attributes:
        preparation: How images are made ready.
        batch_size: Images that go through the model together.
        classes: Head name -> class names.
        category_ids: Head name -> category id of every label.
        categories: Of the data set, as in a COCO file.
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
        """An image file, or a frame, made ready; runs in several threads at once.

        Raises:
            DataError: If it cannot be read.
        """
        ...

    def predict(self, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
        """Head name -> prediction in pixels of the image, for each image.

        Raises:
            DataError: If one cannot be read.
        """
        ...
