"""Test-time augmentation: several views of an image are predicted and merged into one prediction.

A view is an image that is mirrored horizontally or prepared at another size, with the geometry that
maps back to the original. Predictions are decoded in the frame of the original image and merged
there, by the task: probabilities are averaged, boxes fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_tasks.data.images.preprocessing import PreparedImage
from resnet_tasks.errors import DataError
from resnet_tasks.inference.predictor import ImageHandle, Predictor, Prepared
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo, InputImage

SCALES = (0.75, 1.0, 1.25)
KINDS = ("flips", "scales", "flips+scales")


@dataclass(frozen=True)
class TtaViews:
    """Test-time augmentation views of an image.

    Attributes:
        has_flips: Whether to add horizontally flipped views.
        scales: Sizes of the views, relative to the size of the plain prediction.
    """

    has_flips: bool = False
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def from_name(cls, kind: str | None) -> TtaViews:
        """Create the views of `flips`, `scales` or `flips+scales`; None: the plain view only.

        Raises:
            DataError: If the name is unknown.
        """
        if kind is None:
            return cls()
        if kind not in KINDS:
            raise DataError(
                f"test-time augmentation {kind!r} is unknown; allowed: {', '.join(KINDS)}"
            )
        return cls("flips" in kind, SCALES if "scales" in kind else (1.0,))

    def __len__(self) -> int:
        return len(self.scales) * (2 if self.has_flips else 1)


@dataclass(frozen=True)
class _View:
    """Handle of one view of an image; views of one size share what they read (`cache`)."""

    handle: ImageHandle
    scale: float
    is_flipped: bool
    cache: dict[float, InputImage]

    @property
    def image_id(self) -> int | str:
        return self.handle.image_id

    @property
    def name(self) -> str:
        return self.handle.name

    def read(self, scale: float = 1.0) -> InputImage:
        size = self.scale * scale
        if size not in self.cache:
            self.cache[size] = self.handle.read(size)
        image = self.cache[size]
        return image.flip() if self.is_flipped else image

    def open(self) -> PreparedImage:
        raise DataError("test-time augmentation cannot be combined with windows; use only one")


@dataclass(frozen=True)
class TtaPredictor:
    """Predictor that predicts every view of an image and merges the predictions.

    Attributes:
        predictor: Predictor of each view, on whole images.
        views: Views to predict.

    Raises:
        DataError: If `predictor` reads images in regions.
    """

    predictor: Predictor
    views: TtaViews
    reads_regions: bool = False

    def __post_init__(self) -> None:
        if self.predictor.reads_regions:
            raise DataError("test-time augmentation cannot be combined with windows; use only one")

    @property
    def heads(self) -> Mapping[str, HeadInfo]:
        """Head name -> description."""
        return self.predictor.heads

    def prepare(self, handle: ImageHandle) -> Prepared:
        """Read and prepare every view of an image."""
        cache: dict[float, InputImage] = {}
        views = [
            self.predictor.prepare(_View(handle, scale, is_flipped, cache))
            for scale in self.views.scales
            for is_flipped in ((False, True) if self.views.has_flips else (False,))
        ]
        return Prepared(handle.image_id, handle.name, views[0].size, views)

    def predict(self, images: Sequence[Prepared]) -> list[ImageResult]:
        """Predict and merge all views of prepared images, which form one batch per view."""
        views = [
            self.predictor.predict([image.inputs[i] for image in images])
            for i in range(len(self.views))
        ]
        if len(views) == 1:
            return views[0]
        heads = self.heads
        return [
            ImageResult(
                {
                    name: head.task_spec.merge_views([result[name] for result in results])
                    for name, head in heads.items()
                },
                heads,
                image.image_id,
                image.name,
                image.size,
            )
            for image, *results in zip(images, *views, strict=True)
        ]
