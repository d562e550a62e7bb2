"""Mapping between an original image and its place in a batch; for tensors and numpy arrays.

The module works without torch, so that exported models predict without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resnet_tasks.structures.arrays import Array, array_like
from resnet_tasks.structures.resizing import flip_and_resize


@dataclass(frozen=True)
class Geometry:
    """Mapping between an original image and its place in the batch.

    A point maps as `input = original * scale + offset`, per axis. The original image has its EXIF
    orientation applied. The image lies at the top left of the padded batch.

    Attributes:
        original_size: (height, width) of the original image, pixels.
        input_size: (height, width) of the image inside the padded batch, pixels.
        scale: (y, x) input pixels per original pixel; negative where the axis is flipped.
        offset: (y, x) input pixels.
    """

    original_size: tuple[int, int]
    input_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def from_resize(cls, original_size: tuple[int, int], input_size: tuple[int, int]) -> Geometry:
        """Create the geometry of a plain resize."""
        scale = (input_size[0] / original_size[0], input_size[1] / original_size[1])
        return cls(original_size, input_size, scale)

    def boxes_to_original(self, boxes: Array) -> Array:
        """Map boxes from input pixels to original pixels, clipped to the original image.

        Args:
            boxes: `(N, 4)` xyxy, input pixels.

        Returns:
            `(N, 4)` xyxy, original pixels.
        """
        mapped = (boxes - self._get_offsets(boxes)) / self._get_scales(boxes)
        clipped: Array = _sort_and_clip(mapped, self.original_size)
        return clipped

    def boxes_to_input(self, boxes: Array) -> Array:
        """Map boxes from original pixels to input pixels, clipped to the image.

        Args:
            boxes: `(N, 4)` xyxy, original pixels.

        Returns:
            `(N, 4)` xyxy, input pixels.
        """
        mapped = boxes * self._get_scales(boxes) + self._get_offsets(boxes)
        clipped: Array = _sort_and_clip(mapped, self.input_size)
        return clipped

    def map_to_original(self, dense: Array) -> Array:
        """Cut off the padding of dense values and resize them bilinearly to the original image.

        Args:
            dense: `(C, H, W)` values (logits) over the padded batch image, at its full resolution.

        Returns:
            `(C, height, width)` float32 values over the original image.

        Raises:
            ValueError: If the geometry is more than a resize with flips (the outside of a crop has
                no values).
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
        return array_like(like, (self.scale[1], self.scale[0], self.scale[1], self.scale[0]))

    def _get_offsets(self, like: Any) -> Any:
        return array_like(like, (self.offset[1], self.offset[0], self.offset[1], self.offset[0]))


def _sort_and_clip(boxes: Any, size: tuple[int, int]) -> Any:
    """Order the corners (a flip swaps them) and clip them to `size`."""
    ordered = boxes.clip(max=boxes[:, [2, 3, 0, 1]])
    ordered[:, 2:] = boxes[:, 2:].clip(min=boxes[:, :2])
    height, width = size
    return ordered.clip(
        array_like(boxes, (0, 0, 0, 0)), array_like(boxes, (width, height, width, height))
    )
