"""Preparation of stored images, or parts of them, in the same way for training and prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.intensity import Intensity, Resize, resize_pixels
from resnet_tasks.data.images.regions import ArrayRegions, ImageRegions, open_regions
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError
from resnet_tasks.structures.geometry import Geometry


@dataclass(frozen=True)
class Preparation:
    """Steps from a decoded image to the input of a model, without augmentation.

    Attributes:
        channels: Number of channels of the model input.
        resize: Box that images are resized to; None keeps the stored size.
        intensity: Step that maps stored values to 0..1.
        scale: Additional scale of the size, for test-time augmentation.
        max_pixels: Number of pixels above which files are rejected before decoding; None:
            `decoding.MAX_PIXELS`.
    """

    channels: int = 3
    resize: Resize | None = None
    intensity: Intensity = field(default_factory=Intensity)
    scale: float = 1.0
    max_pixels: int | None = None

    def read(self, path: Path) -> NDArray[Any]:
        """Read an image file as stored, `(h, w, channels)`, upright.

        Raises:
            DataError: If it cannot be read, is too large, or has other channels.
        """
        return read_image(path, self.channels, max_pixels=self.max_pixels)

    def open_image(self, source: Path | NDArray[Any], name: str = "") -> PreparedImage:
        """Open a file or an array for preparing parts of it.

        Args:
            source: Path of an image file, or `(h, w)` or `(h, w, C)` stored values.
            name: Image name in error messages.

        Raises:
            DataError: If it cannot be read, is too large, or does not fit the model.
        """
        if isinstance(source, Path):
            regions = open_regions(source, self.channels, max_pixels=self.max_pixels)
            return PreparedImage(regions, self, str(source))
        array = self.convert_channels(source, name)
        return PreparedImage(ArrayRegions(array), self, name or "the image")

    def compute_input_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Return the prepared (height, width) of an image with (height, width) `original`."""
        height, width = self.resize.compute_size(original) if self.resize else original
        return (max(1, round(height * self.scale)), max(1, round(width * self.scale)))

    def prepare_pixels(self, image: NDArray[Any], image_name: str) -> NDArray[Any]:
        """Apply the intensity step and the resize to an image.

        Args:
            image: `(h, w, C)` stored values.
            image_name: Image name in error messages.

        Returns:
            `(h', w', C)` uint8 if the intensity step is a plain division, which is then deferred to
            `to_unit_range` (a quarter of the memory); otherwise float32 in 0..1.
        """
        is_plain = image.dtype == np.uint8 and self.intensity.type == "auto"
        values = image if is_plain else self.intensity(image, image_name)
        return resize_pixels(values, self.compute_input_size((image.shape[0], image.shape[1])))

    def prepare_image(
        self, image: NDArray[Any], name: str = ""
    ) -> tuple[NDArray[np.float32], Geometry]:
        """Return the model input of one stored image, and its geometry.

        Args:
            image: `(h, w)` or `(h, w, C)` stored values; uint8, uint16 or float.
            name: Image name in error messages.

        Returns:
            `(h', w', C)` float32 in 0..1, and the map to the original image.

        Raises:
            DataError: If the shape does not fit the model.
        """
        array = self.convert_channels(image, name)
        values = to_unit_range(self.prepare_pixels(array, name or "the image"))
        geometry = Geometry.from_resize(
            (int(array.shape[0]), int(array.shape[1])),
            (int(values.shape[0]), int(values.shape[1])),
        )
        return values, geometry

    def convert_channels(self, image: NDArray[Any], name: str) -> NDArray[Any]:
        """Return the `(h, w, C)` image with the channels of the model.

        Gray images are repeated for a model with 3 channels.

        Args:
            image: `(h, w)` or `(h, w, C)` stored values.
            name: Image name in error messages.

        Raises:
            DataError: If the shape does not fit the model.
        """
        array = image[:, :, None] if image.ndim == 2 else image
        if array.ndim == 3 and array.shape[2] == 1 and self.channels == 3:
            array = np.repeat(array, 3, axis=2)
        if array.ndim != 3 or array.shape[2] != self.channels or 0 in array.shape:
            raise DataError(self._describe_shape(tuple(image.shape), name or "the image"))
        return array

    def _describe_shape(self, shape: tuple[int, ...], name: str) -> str:
        """Return the message on the shape of an array that does not fit the model."""
        plain = " or (height, width)" if self.channels in (1, 3) else ""
        if 0 in shape:
            remedy = ", without an axis of length 0"
        elif len(shape) == 4:
            remedy = "; pass the images of a batch as a list"
        elif self.channels == 3 and shape[2:] == (4,):
            remedy = "; to ignore an alpha channel, pass image[:, :, :3]"
        else:
            remedy = ""
        allowed = f"(height, width, {self.channels}){plain}"
        return f"{name} has the shape {shape}; allowed: {allowed}{remedy}"


@dataclass(frozen=True)
class PreparedImage:
    """Image whose parts are prepared for a model on request.

    A part equals the same part of the completely prepared image.

    Attributes:
        regions: Stored image.
        preparation: Steps from the stored image to a sample.
        name: Image name in error messages.
        known_limits: Limits of the intensity step if they are already known; see `limits`.
    """

    regions: ImageRegions
    preparation: Preparation
    name: str = "the image"
    known_limits: tuple[Any, Any] | None = None

    @property
    def original_size(self) -> tuple[int, int]:
        """(height, width) of the stored image, upright."""
        return self.regions.size

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the prepared image, which windows refer to."""
        return self.preparation.compute_input_size(self.original_size)

    def read_window(self, tile: Tile) -> tuple[NDArray[np.float32], Geometry]:
        """Return one window of the prepared image, and its geometry.

        The values are those of `Preparation.prepare_image`.

        Raises:
            DataError: If the file cannot be read, or its values cannot be mapped to 0..1.
        """
        full_geometry = Geometry.from_resize(self.original_size, self.size)
        geometry = Geometry(
            self.original_size,
            tile.size,
            full_geometry.scale,
            (-float(tile.top), -float(tile.left)),
        )
        return self._read_values(tile), geometry

    def _read_values(self, tile: Tile) -> NDArray[np.float32]:
        if self.size != self.original_size:
            return to_unit_range(self._resized[tile.rows, tile.columns])
        return self.read_original_values(tile)

    def read_original_values(self, tile: Tile) -> NDArray[np.float32]:
        """Return a part of the original image after the intensity step, `(h, w, C)` in 0..1.

        Raises:
            DataError: If the file cannot be read, or its values cannot be mapped to 0..1.
        """
        pixels = self.regions.read(tile)
        return self.preparation.intensity(pixels, self.name, limits=self.limits)

    @cached_property
    def _resized(self) -> NDArray[Any]:
        return self.preparation.prepare_pixels(self.regions.read_all(), self.name)

    @cached_property
    def limits(self) -> tuple[Any, Any] | None:
        """Limits that the intensity step computes from the whole image; None if it needs none."""
        if self.known_limits is not None:
            return self.known_limits
        intensity = self.preparation.intensity
        if not intensity.needs_full_image:
            return None
        return intensity.compute_limits(self.regions.read_all(), self.name)


def to_unit_range(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the output of `Preparation.prepare_pixels` as float32 in 0..1."""
    return Intensity()(pixels) if pixels.dtype == np.uint8 else pixels
