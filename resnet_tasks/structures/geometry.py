"""How an image came to lie in a batch, and the way back; for tensors and for numpy arrays.

Free of torch, so that exported models predict without it; `samples` registers the resize of
tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any, TypeVar

import cv2
import numpy as np

Array = TypeVar("Array")
"""A tensor or a numpy array."""


@dataclass(frozen=True)
class Geometry:
    """How one image came to lie in the batch, and the way back.

    A point maps as `input = original * scale + offset`, per axis. Original means the image as
    people see it (EXIF orientation applied). The image lies at the top left of the padded batch.

    Attributes:
        original_size: (height, width) of the original image.
        input_size: (height, width) inside the padded batch.
        scale: (y, x) input pixels per original pixel; negative where the axis is flipped.
        offset: (y, x) in input pixels.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_resize(cls, original_size: tuple[int, int], input_size: tuple[int, int]) -> Geometry:
        """The geometry of a plain resize."""
        scale = (input_size[0] / original_size[0], input_size[1] / original_size[1])
        return cls(original_size, input_size, scale)

    def boxes_to_original(self, boxes: Array) -> Array:
        """`(N, 4)` xyxy input pixels -> xyxy original pixels, clipped to the original image."""
        mapped = (boxes - self._get_offsets(boxes)) / self._get_scales(boxes)
        clipped: Array = _sort_and_clip(mapped, self.original_size)
        return clipped

    def boxes_to_input(self, boxes: Array) -> Array:
        """`(N, 4)` xyxy original pixels -> xyxy input pixels, clipped to the image."""
        mapped = boxes * self._get_scales(boxes) + self._get_offsets(boxes)
        clipped: Array = _sort_and_clip(mapped, self.input_size)
        return clipped

    def map_to_original(self, dense: Array) -> Array:
        """Bilinear resize of dense values to the original image, padding cut off.

        Args:
            dense: `(C, H, W)` values (logits) over the padded batch image, at its full
                resolution.

        Returns:
            `(C, height, width)` float32 values over the original image.

        Raises:
            ValueError: If the geometry holds more than a resize and flips (crops cannot be filled).
        """
        flips = tuple(axis for axis in (0, 1) if self.scale[axis] < 0)
        plain = Geometry.from_resize(self.original_size, self.input_size)
        for axis in (0, 1):
            expected = self.input_size[axis] if self.scale[axis] < 0 else 0.0
            if (
                abs(abs(self.scale[axis]) - plain.scale[axis]) > 1e-6
                or abs(self.offset[axis] - expected) > 1e-3
            ):
                raise ValueError(f"{self} is not a resize with flips; its map has no full inverse")
        values: Any = dense
        cut = values[:, : self.input_size[0], : self.input_size[1]]
        resized_map: Array = flip_and_resize(cut, flips, self.original_size)
        return resized_map

    def _get_scales(self, like: Any) -> Any:
        return _array_like(like, (self.scale[1], self.scale[0], self.scale[1], self.scale[0]))

    def _get_offsets(self, like: Any) -> Any:
        return _array_like(like, (self.offset[1], self.offset[0], self.offset[1], self.offset[0]))


@singledispatch
def flip_and_resize(dense: Any, flips: tuple[int, ...], size: tuple[int, int]) -> Any:
    """`(C, h, w)` values as float32, flipped, then resized bilinearly between pixel centers.

    Args:
        dense: A numpy array; other types are registered where they are known.
        flips: 0 for rows, 1 for columns.
        size: New (height, width).
    """
    raise TypeError(
        f"dense values of type {type(dense).__name__} cannot be flipped ({flips}) and resized to "
        f"{size}; give an array or a tensor"
    )


@flip_and_resize.register
def _(dense: np.ndarray, flips: tuple[int, ...], size: tuple[int, int]) -> Any:
    values = np.flip(dense.astype(np.float32, copy=False), tuple(axis + 1 for axis in flips))
    if values.shape[1:] == size:
        return values
    planes = [
        cv2.resize(np.ascontiguousarray(plane), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        for plane in values
    ]
    return np.stack(planes)


def _array_like(array: Any, values: tuple[float, ...]) -> Any:
    """`values` as an array of the same kind, type and place as `array`."""
    make = getattr(array, "new_tensor", None)
    return np.asarray(values, dtype=array.dtype) if make is None else make(values)


def _sort_and_clip(boxes: Any, size: tuple[int, int]) -> Any:
    """Orders the corners (a flip swaps them) and clips them to `size`."""
    ordered = boxes.clip(max=boxes[:, [2, 3, 0, 1]])
    ordered[:, 2:] = boxes[:, 2:].clip(min=boxes[:, :2])
    height, width = size
    return ordered.clip(
        _array_like(boxes, (0, 0, 0, 0)), _array_like(boxes, (width, height, width, height))
    )
