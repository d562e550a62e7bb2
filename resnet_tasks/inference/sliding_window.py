"""Sliding-window prediction of large images, in memory that depends on the window size.

Every window is a sample whose geometry maps back to the image. Semantic maps are merged from raw
logits (`merge_maps`), boxes from detections in pixels of the image (`merge_boxes`). For an image
that fits into one window, the prediction equals that of the whole image.
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
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.samples import Batch, collate
from resnet_tasks.structures.tasks import CLASSIFICATION, SEMANTIC_SEGMENTATION


@runtime_checkable
class ReadsRegions(Protocol):
    """Dataset whose images can be read in regions."""

    def image_id(self, index: int) -> int | str:
        """Return the id of image `index`."""
        ...

    def prepare_image(self, index: int) -> PreparedImage:
        """Open image `index` for reading in regions."""
        ...


@dataclass(frozen=True)
class SlidingWindows:
    """Predictor that runs a model on overlapping windows of an image.

    `evaluate` and `predict_images` accept it instead of a `TaskModel`.

    Attributes:
        model: Model that predicts each window.
        windows: Size of the windows, in pixels of the prepared image, and their overlap.
        batch_size: Windows per forward pass.
        iou: IoU above which boxes of two windows are the same object.
        keep: Output to keep for each pixel in addition to labels: none (`labels`), the `confidence`
            of the label, or the `probs` of all classes (`K * h * w` numbers).

    Raises:
        HeadError: If a head classifies whole images.
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
                    f"head {name} classifies the whole image, which windows cannot do; predict "
                    "without windows (no data.tiles, evaluation.sliding or --tiles), or remove "
                    "the head"
                )

    @torch.inference_mode()
    def predict(self, image: PreparedImage, *, precision: str = "fp32") -> dict[str, Any]:
        """Predict every head, in pixels of the original image.

        Args:
            image: Image, read window by window.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> `Detections` or `SegmentationMap`.

        Raises:
            DataError: If the image cannot be read, or predictions cannot be merged.
            HeadError: If a semantic head has no logits at the size of its input.
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
        """Yield the windows of an image in batches, with every head's raw output."""
        windows = self.windows.make_tiles(image.size)
        for start in range(0, len(windows), self.batch_size):
            tiles = windows[start : start + self.batch_size]
            batch = collate([make_window_sample(image, tile) for tile in tiles])
            yield tiles, batch, self.model.predict_raw(batch, precision=precision)


def _frame_detections(
    name: str, prediction: Any, tile: Tile, image: PreparedImage
) -> WindowDetections:
    """Return the detections of a window with the position of the window in the original image.

    Raises:
        DataError: If the prediction is not of type `Detections`.
    """
    if not isinstance(prediction, Detections):
        raise DataError(
            f"head {name}: predictions of type {type(prediction).__name__} cannot be merged from "
            "windows; predict without windows (no data.tiles, evaluation.sliding or --tiles)"
        )
    scale_y = image.original_size[0] / image.size[0]
    scale_x = image.original_size[1] / image.size[1]
    x1, y1, x2, y2 = tile.box
    return WindowDetections(prediction, (x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y))
