"""RetinaNet: a detector that classifies and moves anchors at every cell of a feature pyramid.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017. Parameter names are
torchvision's, whose `retinanet_resnet50_fpn` (the defaults) and `retinanet_resnet50_fpn_v2` predict
the same boxes with the same weights.

Shape glossary: `B` batch size, `A` anchors per cell, `Mk` anchors of level k, `M` anchors of all
levels, `K` classes, `T` candidates per level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.dense.dense_head import (
    PYRAMID_LEVELS,
    ClassificationBranch,
    Count,
    DenseDetector,
    DenseOptions,
    Fraction,
    RegressionBranch,
)
from resnet_tasks.heads.dense.foreign_weights import TorchvisionRetinaNet
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.layers.anchors import AnchorShapes, split_anchor_sizes
from resnet_tasks.layers.box_coders import BoxCoder
from resnet_tasks.layers.detection_losses import compute_box_loss
from resnet_tasks.layers.feature_pyramid import ExtraLevels
from resnet_tasks.layers.matchers import IouMatcher, extract_objects
from resnet_tasks.layers.nms import select_candidates
from resnet_tasks.layers.towers import ConvTower
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

Pixels = Annotated[float, Field(gt=0)]
Shapes = Annotated[tuple[Pixels, ...], Field(max_length=16)]

ANCHOR_SIZES = (
    (32, 40, 50),
    (64, 80, 101),
    (128, 161, 203),
    (256, 322, 406),
    (512, 645, 812),
)
"""Three sides per octave, rounded down, as in torchvision."""
LOGIT_MARGIN = 1e-3
"""Margin that keeps every score above the threshold when candidates are selected by logits."""


class RetinaNetOptions(DenseOptions):
    """Options of `RetinaNet`; the defaults are those of torchvision's first version.

    torchvision's second version (`retinanet_resnet50_fpn_v2`) has `tower_norm: group`,
    `extra_levels: convolved_c5` and `box_loss: giou`.

    Attributes:
        anchor_sizes: One entry per level P3..P7: side of the square anchor in input pixels, or
            several sides.
        aspect_ratios: Height / width of the anchors.
        detections_per_image: Maximum number of detections per image.
        fg_iou: IoU with an object from which an anchor is positive; the best anchors of an object
            are positive at any IoU.
        bg_iou: IoU below which an anchor is negative.
        tower_norm: Norms of the towers: `none`, or `group` norms.
        extra_levels: P6 and P7 are convolutions of P5 (`convolved`) or of C5 (`convolved_c5`).
        box_loss: Box loss: `l1` or `smooth_l1` on offsets, or `giou` on boxes.
    """

    anchor_sizes: tuple[Pixels | Shapes, ...] = ANCHOR_SIZES
    aspect_ratios: Annotated[Shapes, Field(min_length=1)] = (0.5, 1.0, 2.0)
    detections_per_image: Count = 300
    fg_iou: Fraction = 0.5
    bg_iou: Fraction = 0.4
    tower_norm: Literal["none", "group"] = "none"
    extra_levels: Literal["convolved", "convolved_c5"] = "convolved"
    box_loss: Literal["l1", "smooth_l1", "giou"] = "l1"

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> RetinaNetOptions:
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"bg_iou ({self.bg_iou}) must not exceed fg_iou ({self.fg_iou})")
        return self

    @property
    def sizes_per_level(self) -> tuple[tuple[float, ...], ...]:
        """Anchor sizes per level, with every entry of `anchor_sizes` converted to a tuple."""
        return split_anchor_sizes(self.anchor_sizes)


class RetinaNetHead(nn.Module):
    """Layers that all levels share: one branch for the classes, one for the boxes.

    Args:
        channels: Channels of every level.
        num_classes: Number of classes.
        per_cell: Number of anchors per cell.
        options: Options of the head.
    """

    def __init__(
        self, channels: int, num_classes: int, per_cell: int, options: RetinaNetOptions
    ) -> None:
        super().__init__()
        norm: Literal["group"] | None = "group" if options.tower_norm == "group" else None
        class_tower, box_tower = (
            ConvTower(channels, options.num_convs, norm=norm, nested=True) for _ in range(2)
        )
        self.classification_head = ClassificationBranch(
            class_tower,
            channels,
            num_classes,
            per_cell=per_cell,
            prior_probability=options.prior_probability,
        )
        self.regression_head = RegressionBranch(box_tower, channels, per_cell=per_cell)

    def forward(self, level: Tensor, *, has_boxes: bool = True) -> tuple[Tensor, ...]:
        """Predict all anchors of a level `(B, channels, Hk, Wk)`.

        Returns:
            Class logits `(B, Mk, K)`; and if `has_boxes`, box deltas `(B, Mk, 4)`.
        """
        logits = self.classification_head(level)
        return (logits, self.regression_head(level)) if has_boxes else (logits,)


@register_head("retinanet")
class RetinaNet(DenseDetector):
    """One-stage detector with anchors on P3..P7, computed from C3..C5 unless they are shared.

    Loss terms, both divided by the number of positive anchors of each image and averaged over the
    images: `focal`, the focal loss of all anchors except those with an IoU between
    `bg_iou` and `fg_iou`; and `box` of the positive anchors.

    Args:
        specs: Channels and stride of every offered level.
        classes: Class names.
        options: Options of the head, see `RetinaNetOptions`.

    Raises:
        HeadError: If levels are missing, strides do not double, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = RetinaNetOptions
    foreign_weights: ClassVar[ForeignWeights] = TorchvisionRetinaNet()
    options: RetinaNetOptions
    head: RetinaNetHead

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        self.anchors = AnchorShapes.from_options(
            self.options.anchor_sizes,
            self.options.aspect_ratios,
            PYRAMID_LEVELS,
            type(self).__name__,
        )
        self.head = RetinaNetHead(
            self.channels, len(self.classes), self.anchors.per_cell, self.options
        )
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = IouMatcher(self.options.fg_iou, self.options.bg_iou, best_is_positive=True)

    @classmethod
    def _get_variant(cls, options: Any) -> ExtraLevels:
        variant: ExtraLevels = options.extra_levels
        return variant

    def _select_candidates(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        # Logits are sorted like scores, and the sigmoid of the selected ones suffices.
        threshold = _compute_logit(self.options.score_threshold) - LOGIT_MARGIN
        anchors_by_level = self.anchors.generate(levels, self._get_padded_size(levels))
        candidates = []
        for level, anchors in zip(levels, anchors_by_level, strict=True):
            logits, deltas = self.head(level)
            best, rows, labels = select_candidates(
                logits.float(), self.options.candidates_per_level, threshold=threshold
            )
            selected = deltas.gather(1, rows[..., None].expand(-1, -1, 4)).float()
            candidates.append((self.coder.decode(selected, anchors[rows]), best.sigmoid(), labels))
        return candidates

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the loss terms, equal to torchvision's."""
        levels = self._compute_pyramid(features)
        anchors_by_level = self.anchors.generate(levels, self._get_padded_size(levels))
        anchors = torch.cat(anchors_by_level)
        targets, matches, objects = [], [], []
        for target in view.targets:
            boxes, labels, ignored = extract_objects(target)
            image_matches = self.matcher.match(anchors, boxes, ignored)
            positive = torch.where(image_matches >= 0)[0]
            targets.append(image_matches.index_put((positive,), labels[image_matches[positive]]))
            matches.append(image_matches)
            objects.append(boxes)
        all_targets = torch.stack(targets)
        counts = [len(level_anchors) for level_anchors in anchors_by_level]
        places = self._predict_places(levels, torch.split(all_targets, counts, dim=1))
        (deltas,) = places.regression
        box_losses = []
        for image, boxes in enumerate(objects):
            is_own = places.images == image
            rows = places.rows[is_own]
            total = compute_box_loss(
                deltas[is_own],
                anchors[rows],
                boxes[matches[image][rows]],
                self.coder,
                self.options.box_loss,
            )
            box_losses.append(total / max(1, len(rows)))
        box = torch.stack(box_losses).sum()
        return {
            "focal": self._compute_focal_loss(places.logits, all_targets, per_image=True),
            "box": LossTerm(box, box.detach().new_tensor(float(len(view.targets)))),
        }


def _compute_logit(probability: float) -> float:
    """Return the logit of a probability; infinite at 0 and 1."""
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))
