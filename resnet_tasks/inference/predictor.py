"""Predictors: images -> predictions of all heads, in pixels of the original images.

A predictor works in two steps. `prepare` reads an image and runs in loader workers or threads,
`predict` runs the model on several prepared images. `WholeImagePredictor` and
`SlidingWindowPredictor` take an `OutputsModel`; `TtaPredictor` wraps another predictor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation, PreparedImage
from resnet_tasks.inference.outputs_model import OutputsModel
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.visualization.thumbnails import make_overview


class ImageHandle(Protocol):
    """Image that a predictor can read as a whole, or in regions."""

    @property
    def image_id(self) -> int | str:
        """Id of the image in its dataset."""
        ...

    @property
    def name(self) -> str:
        """Name of the image in messages."""
        ...

    def read(self, scale: float = 1.0) -> InputImage:
        """Read and prepare the whole image.

        Args:
            scale: Scale of the prepared size, for test-time augmentation.

        Raises:
            DataError: If the image cannot be read.
        """
        ...

    def open(self) -> PreparedImage:
        """Open the image for reading in regions; it is read as late as its format allows.

        Raises:
            DataError: If the image cannot be read in regions.
        """
        ...


@dataclass(frozen=True)
class FileHandle:
    """Image file, or image in memory.

    Attributes:
        source: Path of an image file, or `(h, w)` or `(h, w, C)` stored values.
        preparation: Preparation of the model's images.
        name: Name of the image in messages.
        image_id: Id for the prediction.
    """

    source: Path | NDArray[Any]
    preparation: Preparation
    name: str
    image_id: int | str = 0

    def load(self) -> FileHandle:
        """Decode the file, and return a handle of the decoded image for further reads."""
        if not isinstance(self.source, Path):
            return self
        return replace(self, source=self.preparation.read(self.source))

    def read(self, scale: float = 1.0) -> InputImage:
        """Read and prepare the whole image."""
        preparation = self.preparation
        image = preparation.read(self.source) if isinstance(self.source, Path) else self.source
        scaled = replace(preparation, scale=preparation.scale * scale)
        array = scaled.convert_channels(image, self.name)
        pixels = scaled.prepare_pixels(array, self.name or "the image")
        original_size = (int(array.shape[0]), int(array.shape[1]))
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        return InputImage(pixels, Geometry.from_resize(original_size, size))

    def open(self) -> PreparedImage:
        """Open the image for reading in regions."""
        return self.preparation.open_image(self.source, self.name)


@dataclass(frozen=True)
class Prepared:
    """Image that is ready for prediction; picklable, so that loader workers can create it.

    Attributes:
        image_id: Id of the image in its dataset.
        name: Name of the image in messages.
        size: (height, width) of the original image, upright, pixels.
        inputs: Prepared data, in the form that the predictor which prepared the image needs.
        image: Stored image, for drawings; None if it was not requested.
    """

    image_id: int | str
    name: str
    size: tuple[int, int]
    inputs: Any
    image: PreparedImage | None = None

    def render_overview(self) -> NDArray[np.uint8]:
        """Render the image as `(h', w', 3)` uint8 RGB for drawings."""
        assert self.image is not None, "prepared without its stored image"
        return make_overview(self.image)


class Predictor(Protocol):
    """Predictor of all heads of a model."""

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        ...

    @property
    def reads_regions(self) -> bool:
        """True if images are read in regions, one image at a time."""
        ...

    def prepare(self, handle: ImageHandle) -> Prepared:
        """Read and prepare an image; called by several threads or processes at once.

        Raises:
            DataError: If the image cannot be read.
        """
        ...

    def predict(self, images: Sequence[Prepared]) -> list[ImageResult]:
        """Predict prepared images, which form one batch.

        Raises:
            DataError: If an image cannot be read, or predictions cannot be merged.
        """
        ...


def predict_sources(
    predictor: Predictor,
    sources: Sequence[Path | NDArray[Any]],
    preparation: Preparation,
    names: Sequence[str] = (),
) -> list[ImageResult]:
    """Predict a few files or arrays, which form one batch; a file is decoded once.

    Args:
        predictor: Predictor of a model.
        sources: Paths of image files, or `(h, w)` or `(h, w, C)` arrays of stored values.
        preparation: Preparation of the model's images.
        names: Names of the images in messages; default: their paths or positions.

    Raises:
        DataError: If an image cannot be read or does not fit the model.
    """
    if not sources:
        return []
    image_names = names or [
        str(source) if isinstance(source, Path) else f"image {i}"
        for i, source in enumerate(sources)
    ]
    handles = [
        FileHandle(source, preparation, name)
        for source, name in zip(sources, image_names, strict=True)
    ]
    return predictor.predict(
        [
            predictor.prepare(handle if predictor.reads_regions else handle.load())
            for handle in handles
        ]
    )


@dataclass(frozen=True)
class WholeImagePredictor:
    """Predictor that passes whole images through a model.

    Attributes:
        model: Model that computes the outputs of the heads.
    """

    model: OutputsModel
    reads_regions: bool = False

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        return self.model.heads

    def prepare(self, handle: ImageHandle) -> Prepared:
        """Read and prepare a whole image."""
        image = handle.read()
        return Prepared(handle.image_id, handle.name, image.geometry.original_size, image)

    def predict(self, images: Sequence[Prepared]) -> list[ImageResult]:
        """Predict prepared images, which form one batch."""
        heads = self.heads
        outputs = self.model.outputs([image.inputs for image in images])
        geometries = [image.inputs.geometry for image in images]
        decoded = {
            name: head.task_spec.decode(outputs[name], geometries) for name, head in heads.items()
        }
        return [
            ImageResult(
                {name: predictions[i] for name, predictions in decoded.items()},
                heads,
                image.image_id,
                image.name,
                image.size,
            )
            for i, image in enumerate(images)
        ]
