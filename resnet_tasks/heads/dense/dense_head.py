"""Base of the one-stage detectors: pyramid, focal loss of the classes, selection of detections.

Source: Lin et al., Focal Loss for Dense Object Detection (RetinaNet), ICCV 2017.

Shape glossary: `B` batch size, `L` levels, `Mk` places (points or anchors) of level k, `M` places
of all levels, `P` places with an object, `K` classes, `T` candidates per level, `D` detections per
image.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from resnet_tasks.heads.base import Head, HeadOptions
from resnet_tasks.layers.detection_losses import sigmoid_focal
from resnet_tasks.layers.efficiency.per_image_losses import compute_terms_per_image
from resnet_tasks.layers.feature_pyramid import (
    ExtraLevels,
    FeaturePyramid,
    get_shared_channels,
    has_shared_pyramid,
)
from resnet_tasks.layers.matchers import NEITHER
from resnet_tasks.layers.nms import suppress_duplicates
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.layers.towers import ConvTower
from resnet_tasks.layers.tracing import get_size
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]

PYRAMID_LEVELS = ("P3", "P4", "P5", "P6", "P7")


class DenseOptions(HeadOptions):
    """Options that every one-stage detector has.

    Attributes:
        score_threshold: Lower limit of the score of a detection, exclusive.
        nms_iou: IoU above which two detections of one class are duplicates.
        candidates_per_level: Maximum number of pairs of box and class per level before NMS.
        detections_per_image: Maximum number of detections per image.
        num_convs: Number of 3x3 convolutions of each of the two towers, which read every level.
        pyramid_channels: Channels of the pyramid and the towers; a shared pyramid determines them
            itself.
        prior_probability: Score of every class at every place before training.
        focal_alpha: Weight of the object's class in the focal loss; all others have 1 minus it.
        focal_gamma: Exponent that lowers the focal loss of well classified places.
    """

    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.5
    candidates_per_level: Count = 1000
    detections_per_image: Count = 100
    num_convs: Annotated[int, Field(ge=1, le=32)] = 4
    pyramid_channels: Annotated[int, Field(ge=1, le=2048)] = 256
    prior_probability: OpenFraction = 0.01
    focal_alpha: Fraction = 0.25
    focal_gamma: Annotated[float, Field(ge=0, le=10)] = 2.0


@dataclass(frozen=True)
class PlacePredictions:
    """Predictions that the loss needs.

    Attributes:
        logits: `(B, M, K)` class logits of all places, in the dtype of the features.
        images: `(P,)` int64, image of each place with an object, level by level.
        rows: `(P,)` int64, index of these places over all levels.
        regression: Further outputs of the head at these places, `(P, ...)` float32.
    """

    logits: Tensor
    images: Tensor
    rows: Tensor
    regression: tuple[Tensor, ...]


class DenseDetector(Head):
    """Base class of detectors that predict at every cell of P3..P7.

    The levels are computed from C3..C5, unless a shared pyramid offers them. A subclass builds
    `self.head`, the layers that read every level (logits first; without its other outputs if
    `has_boxes` is False), and implements `loss` and `_select_candidates`.

    Objects marked `ignore` are not learned, and neither is the background inside them.

    Raises:
        HeadError: If a level is missing, a stride cannot be used, or an option is invalid.
    """

    task: ClassVar[str] = "detection"
    in_levels: ClassVar[tuple[str, ...]] = ("C3", "C4", "C5")
    options: DenseOptions
    head: nn.Module

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        name = f"head {type(self).__name__}"
        check_strides(self.specs, f"the levels of {name}")
        own_channels = self.options.pyramid_channels
        self.fpn: FeaturePyramid | None = None
        if self.in_levels != PYRAMID_LEVELS:
            variant = self._get_variant(self.options)
            self.fpn = FeaturePyramid(self.specs, own_channels, extra_levels=variant)
        pyramid = self.specs if self.fpn is None else self.fpn.specs
        is_requested = "pyramid_channels" in self.options.model_fields_set
        self.channels = get_shared_channels(pyramid, own_channels if is_requested else None, name)
        self.strides = tuple(spec.stride for spec in pyramid.values())

    @classmethod
    def _get_variant(cls, options: Any) -> ExtraLevels:
        """Return the variant of P6 and P7 that a head with these options needs."""
        del options
        return "convolved"

    @classmethod
    def levels(cls, specs: Mapping[str, FeatureSpec], options: Any) -> tuple[str, ...]:
        """Return the levels of a shared pyramid if there is one, else those of the backbone."""
        variant = cls._get_variant(options)
        if has_shared_pyramid(specs, PYRAMID_LEVELS, variant, f"head {cls.__name__}"):
            return PYRAMID_LEVELS
        return super().levels(specs, options)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predict the candidates: the best pairs of box and class of every level.

        Returns:
            `boxes` `(B, S, 4)` float32 xyxy in input pixels, not clipped; `scores` `(B, S)`
            float32; `labels` `(B, S)` int64. S is at most L times T; in slots without a candidate
            the score is 0.
        """
        levels = self._compute_pyramid(features)
        candidates = zip(*self._select_candidates(levels), strict=True)
        names = ("boxes", "scores", "labels")
        return {
            name: torch.cat(parts, dim=1) for name, parts in zip(names, candidates, strict=True)
        }

    @abstractmethod
    def _select_candidates(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Select boxes `(B, T, 4)`, scores `(B, T)` and labels `(B, T)` on every level."""

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Clip the candidates to the images, apply NMS inside each class, and keep the best.

        Unlike torchvision's detectors, boxes without an area after clipping are dropped.

        Args:
            raw: Result of `forward`.
            sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.

        Returns:
            `boxes` `(B, D, 4)` float32 xyxy in input pixels; `scores` `(B, D)` float32, in
            descending order; `labels` `(B, D)` int64; `valid` `(B, D)` bool. Slots without a
            detection come last and hold zeros.
        """
        return suppress_duplicates(
            raw["boxes"],
            raw["scores"],
            raw["labels"],
            sizes,
            score_threshold=self.options.score_threshold,
            nms_iou=self.options.nms_iou,
            detections_per_image=self.options.detections_per_image,
        )

    def _compute_pyramid(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        pyramid = features if self.fpn is None else self.fpn(features)
        return [pyramid[level] for level in PYRAMID_LEVELS]

    def _get_padded_size(self, levels: Sequence[Tensor]) -> tuple[int | Tensor, int | Tensor]:
        height, width = (get_size(levels[0], axis) * self.strides[0] for axis in (2, 3))
        return height, width

    def _predict_places(
        self, levels: Sequence[Tensor], targets_by_level: Sequence[Tensor]
    ) -> PlacePredictions:
        """Predict the classes at all places, and the boxes at the places with an object.

        Args:
            levels: `(B, channels, Hk, Wk)` each.
            targets_by_level: `(B, Mk)` int64 each, at least 0 at places with an object.
        """
        logits, images, rows = [], [], []
        regression: list[list[Tensor]] = []
        num_before = 0
        for level, targets in zip(levels, targets_by_level, strict=True):
            level_images, level_rows = torch.where(targets >= 0)
            # Boxes have a loss at places with an object only, so that a level without any needs no
            # box tower. The coarsest level, which costs little, always gives its layers a gradient.
            has_boxes = len(level_images) > 0 or level is levels[-1]
            level_logits, *level_regression = self.head(level, has_boxes=has_boxes)
            logits.append(level_logits)
            if has_boxes:
                images.append(level_images)
                rows.append(level_rows + num_before)
                regression.append(
                    [values[level_images, level_rows].float() for values in level_regression]
                )
            num_before += targets.shape[1]
        return PlacePredictions(
            logits=torch.cat(logits, dim=1),
            images=torch.cat(images),
            rows=torch.cat(rows),
            regression=tuple(torch.cat(parts) for parts in zip(*regression, strict=True)),
        )

    def _compute_focal_loss(self, logits: Tensor, targets: Tensor, *, per_image: bool) -> LossTerm:
        """Compute the focal loss of all classes at all places, divided by the number of objects.

        Args:
            logits: `(B, M, K)`.
            targets: `(B, M)` int64: label of the object at a place, negative for the background,
                `NEITHER` for places that are not learned.
            per_image: Whether each image is divided by its own number of positive places, and the
                term by the number of images; else the term is divided by all positive places.
        """

        def compute_terms(logits: Tensor, targets: Tensor) -> dict[str, LossTerm]:
            totals = torch.stack(
                [self._sum_focal_loss(*image) for image in zip(logits, targets, strict=True)]
            )
            num_positives = (targets >= 0).sum(dim=1).float()
            if per_image:
                shares = totals / num_positives.clamp(min=1)
                return {"focal": LossTerm(shares.sum(), totals.new_tensor(len(totals)))}
            return {"focal": LossTerm(totals.sum(), num_positives.sum())}

        term = compute_terms_per_image(compute_terms, logits, targets)["focal"]
        return LossTerm(term.sum, term.count, min_count=0.0 if per_image else 1.0)

    def _sum_focal_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum the focal loss of one image, with logits `(M, K)` and targets `(M,)`."""
        is_learned = targets != NEITHER
        logits, targets = logits[is_learned], targets[is_learned]
        is_class = torch.zeros_like(logits, dtype=torch.float32)
        positives = torch.where(targets >= 0)[0]
        is_class[positives, targets[positives]] = 1.0
        alpha, gamma = self.options.focal_alpha, self.options.focal_gamma
        return sigmoid_focal(logits, is_class, alpha=alpha, gamma=gamma)


class ClassificationBranch(nn.Module):
    """Tower and class logits, which start at the prior probability.

    Source: Lin et al., ICCV 2017, section 4.1.

    Args:
        tower: Convolutions before the logits.
        channels: Channels of the tower.
        num_classes: Number of classes.
        per_cell: Number of anchors or points per cell.
        prior_probability: Score of every class before training.
    """

    def __init__(
        self,
        tower: ConvTower,
        channels: int,
        num_classes: int,
        *,
        per_cell: int = 1,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = tower
        self.cls_logits = make_predictor(channels, per_cell * num_classes)
        assert self.cls_logits.bias is not None
        prior_logit = math.log(prior_probability / (1 - prior_probability))
        nn.init.constant_(self.cls_logits.bias, prior_logit)
        self.num_classes = num_classes

    def forward(self, level: Tensor) -> Tensor:
        """Map `(B, channels, Hk, Wk)` to class logits `(B, Mk, K)`."""
        return flatten_cells(self.cls_logits(self.conv(level)), self.num_classes)


class RegressionBranch(nn.Module):
    """Tower and box regression.

    Args:
        tower: Convolutions before the regression.
        channels: Channels of the tower.
        per_cell: Number of anchors or points per cell.
    """

    def __init__(self, tower: ConvTower, channels: int, *, per_cell: int = 1) -> None:
        super().__init__()
        self.conv = tower
        self.bbox_reg = make_predictor(channels, per_cell * 4)

    def forward(self, level: Tensor) -> Tensor:
        """Map `(B, channels, Hk, Wk)` to box deltas `(B, Mk, 4)`."""
        return flatten_cells(self.bbox_reg(self.conv(level)), 4)


def make_predictor(channels: int, rows: int) -> nn.Conv2d:
    """Make a 3x3 convolution whose outputs start near 0."""
    predictor = nn.Conv2d(channels, rows, 3, padding=1)
    nn.init.normal_(predictor.weight, std=0.01)
    assert predictor.bias is not None
    nn.init.zeros_(predictor.bias)
    return predictor


def flatten_cells(values: Tensor, columns: int) -> Tensor:
    """Reshape `(B, A * columns, Hk, Wk)` to `(B, Hk * Wk * A, columns)`.

    The memory of a channels-last map is used as it is.
    """
    return values.permute(0, 2, 3, 1).reshape(values.shape[0], -1, columns)
