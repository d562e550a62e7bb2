"""Big images predicted window by window, in memory that depends on the window.

Every window is a sample like any other, whose geometry leads back to the image. Pixels meet as
raw logits (`window_maps`), boxes as detections in the frame of the image (`window_boxes`). On an
image that fits one window the prediction is that of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from resnet_tasks.data.datasets.samples import make_window_sample
from resnet_tasks.data.images.preprocessing import PreparedImage
from resnet_tasks.data.images.windows import Tile, WindowGrid
from resnet_tasks.errors import DataError, HeadError
from resnet_tasks.inference.merge_boxes import WindowDetections, merge_detections
from resnet_tasks.inference.merge_maps import BlendedMap, Keep, get_window_logits
from resnet_tasks.model import Raw, TaskModel
from resnet_tasks.structures.predictions import Detections
from resnet_tasks.structures.samples import Batch, collate
from resnet_tasks.structures.tasks import CLASSIFICATION, SEMANTIC_SEGMENTATION


@runtime_checkable
class ReadsRegions(Protocol):
    """A data set whose images can be read in parts."""

    def image_id(self, index: int) -> int | str:
        """Id of image `index`."""
        ...

    def prepare_image(self, index: int) -> PreparedImage:
        """Image `index`."""
        ...


@dataclass(frozen=True)
class SlidingWindows:
    """A model that predicts an image in overlapping windows.

    Takes the place of a `TaskModel` in `evaluate` and `predict_images`.

    Attributes:
        model: Predicts each window.
        windows: Their size, in pixels of the prepared image, and overlap.
        batch_size: Windows per forward.
        iou: Boxes of two windows that overlap more are one object.
        keep: What is kept of the pixels besides their labels: nothing, the `confidence` of the
            label, or the `probs` of all classes (`K * h * w` numbers).

    Raises:
        HeadError: If a head sees images as a whole.
    """

    model: TaskModel
    windows: WindowGrid
    batch_size: int = 4
    iou: float = 0.5
    keep: Keep = "labels"

    def __post_init__(self) -> None:
        for name, head in self.model.named_heads.items():
            if head.task == CLASSIFICATION:
                raise HeadError(
                    f"head {name} says what an image shows as a whole, which windows of it do not "
                    "tell; predict without windows (no data.tiles, evaluation.sliding or --tiles), "
                    "or take the head out"
                )

    @torch.inference_mode()
    def predict(self, image: PreparedImage, *, precision: str = "fp32") -> dict[str, Any]:
        """Predictions of every head, in pixels of the original image.

        Args:
            image: Read window by window.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> `Detections` or `SegmentationMap`.

        Raises:
            DataError: If the image cannot be read, or predictions cannot be put together.
            HeadError: If a semantic head gives no logits of the image's size.
        """
        maps = {
            name: BlendedMap(head, self.windows, image.size, image.original_size, keep=self.keep)
            for name, head in self.model.named_heads.items()
            if head.task == SEMANTIC_SEGMENTATION
        }
        boxes: dict[str, list[WindowDetections]] = {
            name: [] for name in self.model.named_heads if name not in maps
        }
        for tiles, batch, raw in self._iterate_window_batches(image, precision):
            for name, head in self.model.named_heads.items():
                if name in maps:
                    size = batch.padded_size
                    logits = get_window_logits(name, raw[name], size, len(head.classes))
                    for tile, tile_logits in zip(tiles, logits, strict=True):
                        maps[name].add(tile, tile_logits)
                    continue
                decoded = head.decode(raw[name], batch.geometries)
                boxes[name] += [
                    _frame_detections(name, prediction, tile, image)
                    for tile, prediction in zip(tiles, decoded, strict=True)
                ]
        size = image.original_size
        return {
            name: maps[name].finish()
            if name in maps
            else merge_detections(boxes[name], size, iou=self.iou)
            for name in self.model.named_heads
        }

    def _iterate_window_batches(
        self, image: PreparedImage, precision: str
    ) -> Iterator[tuple[list[Tile], Batch, Raw]]:
        """The windows of an image in batches, with every head's raw output."""
        windows = self.windows.make_tiles(image.size)
        for start in range(0, len(windows), self.batch_size):
            tiles = windows[start : start + self.batch_size]
            batch = collate([make_window_sample(image, tile) for tile in tiles])
            yield tiles, batch, self.model.predict_raw(batch, precision=precision)


def _frame_detections(
    name: str, prediction: Any, tile: Tile, image: PreparedImage
) -> WindowDetections:
    """Detections of a window, and where it lies in the original image.

    Raises:
        DataError: If they are of another kind.
    """
    if not isinstance(prediction, Detections):
        raise DataError(
            f"head {name}: predictions of type {type(prediction).__name__} cannot be put together "
            "from "
            "windows; predict without them (no data.tiles, evaluation.sliding or --tiles)"
        )
    scale_y = image.original_size[0] / image.size[0]
    scale_x = image.original_size[1] / image.size[1]
    x1, y1, x2, y2 = tile.box
    return WindowDetections(prediction, (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y))
