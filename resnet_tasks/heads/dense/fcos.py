"""FCOS: a detector that predicts class, box and centerness at every point of a feature pyramid.

Source: Tian et al., FCOS: Fully Convolutional One-Stage Object Detection, ICCV 2019, with the
improvements of its second version (TPAMI 2022): center sampling, GIoU loss and centerness next to
the boxes. Parameter names are torchvision's, whose `fcos_resnet50_fpn` predicts the same boxes with
the same weights.

Shape glossary: `B` batch size, `Hk, Wk` cells and `Mk` points of level k, `M` points of all levels,
`K` classes, `P` points with an object, `T` candidates per level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.dense.dense_head import (
    ClassificationBranch,
    Count,
    DenseDetector,
    DenseOptions,
    Fraction,
    flatten_cells,
    make_predictor,
)
from resnet_tasks.heads.dense.foreign_weights import TorchvisionFCOS
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.layers.anchors import AnchorShapes
from resnet_tasks.layers.box_coders import PointCoder
from resnet_tasks.layers.detection_losses import giou, iou
from resnet_tasks.layers.matchers import PointMatcher, extract_objects
from resnet_tasks.layers.nms import select_candidates
from resnet_tasks.layers.towers import ConvTower
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView


class FCOSOptions(DenseOptions):
    """Options of `FCOS`; the defaults are torchvision's.

    Attributes:
        score_threshold: Lower limit of the score of a detection, exclusive. The score is the
            geometric mean of class probability and centerness.
        nms_iou: IoU above which two detections of one class are duplicates.
        detections_per_image: Maximum number of detections per image.
        center_radius: Center sampling: a point learns an object if it lies in the square around the
            object's center whose half side is this number of strides. None: at any point of the
            box, as in the first version of the paper.
        box_loss: Box loss: `giou`, or `iou` as in the first version of the paper.
    """

    score_threshold: Fraction = 0.2
    nms_iou: Fraction = 0.6
    detections_per_image: Count = 100
    center_radius: Annotated[float, Field(gt=0)] | None = 1.5
    box_loss: Literal["giou", "iou"] = "giou"


class CenternessBranch(nn.Module):
    """Tower, distances to the sides of the box, and centerness.

    Args:
        tower: Convolutions before the regression.
        channels: Channels of the tower.
    """

    def __init__(self, tower: ConvTower, channels: int) -> None:
        super().__init__()
        self.conv = tower
        self.bbox_reg = make_predictor(channels, 4)
        self.bbox_ctrness = make_predictor(channels, 1)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, channels, Hk, Wk)` to distances `(B, Mk, 4)` and logits `(B, Mk)`."""
        hidden = self.conv(level)
        distances = flatten_cells(F.relu(self.bbox_reg(hidden)), 4)
        return distances, flatten_cells(self.bbox_ctrness(hidden), 1)[..., 0]


class FCOSHead(nn.Module):
    """Layers that all levels share: one branch for the classes, one for box and centerness.

    Args:
        channels: Channels of every level, a multiple of 32.
        num_classes: Number of classes.
        options: Options of the head.
    """

    def __init__(self, channels: int, num_classes: int, options: FCOSOptions) -> None:
        super().__init__()
        self.classification_head = ClassificationBranch(
            ConvTower(channels, options.num_convs),
            channels,
            num_classes,
            prior_probability=options.prior_probability,
        )
        self.regression_head = CenternessBranch(ConvTower(channels, options.num_convs), channels)

    def forward(self, level: Tensor, *, has_boxes: bool = True) -> tuple[Tensor, ...]:
        """Predict all points of a level `(B, channels, Hk, Wk)`.

        Returns:
            Class logits `(B, Mk, K)`; and if `has_boxes`, distances `(B, Mk, 4)` to the left, top,
            right and bottom side, in strides, at least 0, and centerness logits `(B, Mk)`.
        """
        logits = self.classification_head(level)
        return (logits, *self.regression_head(level)) if has_boxes else (logits,)


@register_head("fcos")
class FCOS(DenseDetector):
    """One-stage, anchor-free detector on P3..P7, computed from C3..C5 unless they are shared.

    As in torchvision, the points are the upper left corners of the cells.

    Loss terms: `focal`, the focal loss of all points; `box` and `centerness` of the points
    with an object. All are divided by the number of points with an object in the batch.

    Args:
        specs: Channels and stride of every offered level.
        classes: Class names.
        options: Options of the head, see `FCOSOptions`.

    Raises:
        HeadError: If levels are missing, strides do not double, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = FCOSOptions
    foreign_weights: ClassVar[ForeignWeights] = TorchvisionFCOS()
    options: FCOSOptions
    head: FCOSHead

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        self.head = FCOSHead(self.channels, len(self.classes), self.options)
        # One square per cell, as in torchvision: its center is the point, its side the stride.
        sides = tuple((float(stride),) for stride in self.strides)
        self.squares = AnchorShapes(sides, (1.0,))
        self.matcher = PointMatcher(self.options.center_radius)

    def _select_candidates(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        candidates = []
        for level, points, stride in zip(
            levels, self._make_points(levels), self.strides, strict=True
        ):
            logits, distances, centerness = self.head(level)
            probs = logits.float().sigmoid() * centerness.float().sigmoid()[..., None]
            scores, rows, labels = select_candidates(
                probs.sqrt(),
                self.options.candidates_per_level,
                threshold=self.options.score_threshold,
            )
            selected = distances.gather(1, rows[..., None].expand(-1, -1, 4)).float()
            boxes = PointCoder(stride).decode(selected, points[rows])
            candidates.append((boxes, scores.clamp(min=0.0), labels))
        return candidates

    def _make_points(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return the points of every level: `(Mk, 2)` float32 (x, y), input pixels."""
        squares = self.squares.generate(levels, self._get_padded_size(levels))
        return [(corners[:, :2] + corners[:, 2:]) / 2 for corners in squares]

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the loss terms, equal to torchvision's."""
        levels = self._compute_pyramid(features)
        points_by_level = self._make_points(levels)
        counts = [len(level_points) for level_points in points_by_level]
        points = torch.cat(points_by_level)
        strides = points.new_tensor(self.strides).repeat_interleave(
            torch.tensor(counts, device=points.device)
        )
        targets, boxes = self._match(points, strides, view)
        places = self._predict_places(levels, torch.split(targets, counts, dim=1))
        distances, centerness = places.regression
        true_boxes, true_points = boxes[places.images, places.rows], points[places.rows]
        predicted_boxes = PointCoder().decode(
            distances * strides[places.rows][:, None], true_points
        )
        compute_box_loss = giou if self.options.box_loss == "giou" else iou
        count = distances.new_tensor(float(len(places.rows)))
        centerness_loss = F.binary_cross_entropy_with_logits(
            centerness, compute_centerness(true_points, true_boxes), reduction="sum"
        )
        return {
            "focal": self._compute_focal_loss(places.logits, targets, per_image=False),
            "box": LossTerm(compute_box_loss(predicted_boxes, true_boxes), count),
            "centerness": LossTerm(centerness_loss, count),
        }

    def _match(self, points: Tensor, strides: Tensor, view: BatchView) -> tuple[Tensor, Tensor]:
        """Match the points of every image to its objects.

        Returns:
            `(B, M)` int64, label of the object, `NEGATIVE` or `NEITHER`; and `(B, M, 4)` float32,
            the object's box, zeros elsewhere.
        """
        targets, boxes = [], []
        for target in view.targets:
            objects, labels, ignored = extract_objects(target)
            matches = self.matcher.match(points, strides, objects, ignored)
            positive = torch.where(matches >= 0)[0]
            targets.append(matches.index_put((positive,), labels[matches[positive]]))
            zeros = objects.new_zeros((len(points), 4))
            boxes.append(zeros.index_put((positive,), objects[matches[positive]]))
        return torch.stack(targets), torch.stack(boxes)


def compute_centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Compute the centerness of points in their boxes: 1 in the center, 0 on a side.

    Source: Tian et al., FCOS, ICCV 2019, equation 3.

    Args:
        points: `(P, 2)` float32 (x, y), inside the boxes.
        boxes: `(P, 4)` float32 xyxy.

    Returns:
        `(P,)` float32, 0..1.
    """
    sides = PointCoder().encode(boxes, points).view(-1, 2, 2)  # (left, top), (right, bottom)
    centerness: Tensor = (sides.amin(dim=1) / sides.amax(dim=1)).prod(dim=1).sqrt()
    return centerness
