"""Sliding-window prediction of large images, in memory that depends on the window size.

Every window is an input whose geometry maps back to the image; each task merges the outputs of the
windows in its own way. For an image that fits into one window, the prediction equals that of the
whole image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from resnet_tasks.data.images.preprocessing import PreparedImage
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import HeadError
from resnet_tasks.inference.outputs_model import OutputsModel
from resnet_tasks.inference.predictor import ImageHandle, Prepared
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.tasks import WindowLayout

Keep = Literal["labels", "confidence", "probs"]


@dataclass(frozen=True)
class SlidingWindowPredictor:
    """Predictor that runs a model on overlapping windows of an image.

    Attributes:
        model: Model that computes the outputs of each window.
        windows: Size of the windows, in pixels of the prepared image, and their overlap.
        batch_size: Windows per forward pass.
        iou: IoU above which objects of two windows are the same object.
        keep: Output to keep for each pixel in addition to labels: none (`labels`), the `confidence`
            of the label, or the `probs` of all classes (`K * h * w` numbers).

    Raises:
        HeadError: If a head predicts on the image as a whole.
    """

    model: OutputsModel
    windows: WindowGrid
    batch_size: int = 4
    iou: float = 0.5
    keep: Keep = "labels"
    reads_regions: bool = True

    def __post_init__(self) -> None:
        for name, head in self.heads.items():
            if head.task_spec.is_whole_image:
                raise HeadError(
                    f"head {name} classifies the whole image, not windows of it; predict "
                    "without windows (no data.tiles, evaluation.sliding or --tiles), or remove "
                    "the head"
                )

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        return self.model.heads

    def prepare(self, handle: ImageHandle) -> Prepared:
        """Open an image, which `predict` reads window by window."""
        image = handle.open()
        return Prepared(handle.image_id, handle.name, image.original_size, image, image)

    def predict(self, images: Sequence[Prepared]) -> list[ImageResult]:
        """Predict images one after the other.

        Raises:
            DataError: If an image cannot be read.
            HeadError: If the outputs of a head cannot be merged.
        """
        return [self._predict_image(image) for image in images]

    def _predict_image(self, prepared: Prepared) -> ImageResult:
        image: PreparedImage = prepared.inputs
        heads = self.heads
        mergers = {
            name: head.task_spec.create_window_merger(name, self._build_layout(image, head))
            for name, head in heads.items()
        }
        tiles = self.windows.make_tiles(image.size)
        for start in range(0, len(tiles), self.batch_size):
            part = tiles[start : start + self.batch_size]
            inputs = [InputImage(*image.read_window(tile)) for tile in part]
            outputs = self.model.outputs(inputs)
            geometries = [window.geometry for window in inputs]
            for name, merger in mergers.items():
                merger.add([tile.box for tile in part], outputs[name], geometries)
        predictions = {name: merger.finish() for name, merger in mergers.items()}
        return ImageResult(predictions, heads, prepared.image_id, prepared.name, prepared.size)

    def _build_layout(self, image: PreparedImage, head: HeadInfo) -> WindowLayout:
        windows = self.windows
        return WindowLayout(
            size=image.size,
            original_size=image.original_size,
            rows=tuple(windows.compute_row_starts(image.size)),
            columns=tuple(windows.compute_column_starts(image.size)),
            window_size=(windows.height, windows.width),
            iou=self.iou,
            keep=self.keep,
            num_classes=len(head.classes),
        )
