"""Faster R-CNN on a feature pyramid.

Source: Ren et al., Faster R-CNN, NeurIPS 2015; Lin et al., Feature Pyramid Networks, CVPR 2017.
Both stages process all images of a batch at once. Parameter names are torchvision's, whose
`fasterrcnn_resnet50_fpn` predicts the same boxes with the same weights.

Shape glossary: `B` batch size, `H, W` padded batch, `D` detections per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from resnet_tasks.heads.base import Head, HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.rcnn.foreign_weights import TorchvisionDetector
from resnet_tasks.heads.rcnn.roi import BoxHead, RoiHeads, SampledRois, sort_detections
from resnet_tasks.heads.rcnn.rpn import RegionProposalNetwork
from resnet_tasks.layers.anchors import AnchorShapes, split_anchor_sizes
from resnet_tasks.layers.box_coders import clip_boxes
from resnet_tasks.layers.feature_pyramid import (
    FeaturePyramid,
    get_shared_channels,
    has_shared_pyramid,
)
from resnet_tasks.layers.matchers import IouMatcher
from resnet_tasks.layers.samplers import CandidateSampler
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.layers.tracing import get_size, stack_numbers
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=1, le=2048)]
Bins = Annotated[int, Field(ge=1, le=64)]
Pixels = Annotated[float, Field(gt=0)]
Shapes = Annotated[tuple[Pixels, ...], Field(max_length=16)]
MAX_BOX_HEAD = 1_000_000
"""Largest `roi_output_size`² x `box_head_channels`; torchvision has 50,176. The first layer of the
box head has this many weights per channel of the pyramid."""

PYRAMID_LEVELS = ("P2", "P3", "P4", "P5", "P6")


class FasterRCNNOptions(HeadOptions):
    """Options of `FasterRCNN`; the defaults are torchvision's.

    Attributes:
        anchor_sizes: One entry per level P2..P6: side of the square anchor in input pixels, or
            several sides.
        aspect_ratios: Height / width of the anchors.
        score_threshold: Lower limit of the score of a detection, exclusive.
        nms_iou: IoU above which two detections of one class are duplicates.
        detections_per_image: Maximum number of detections per image.
        rpn_pre_nms: Candidates per level before NMS, in training and in prediction.
        rpn_post_nms: Proposals per image after NMS, in training and in prediction.
        rpn_nms_iou: IoU above which two proposals of one level are duplicates.
        rpn_batch_size: Number of anchors per image in the loss.
        rpn_positive_fraction: Maximum fraction of positives among the anchors in the loss.
        rpn_fg_iou: IoU with an object from which an anchor is positive.
        rpn_bg_iou: IoU below which an anchor is negative.
        roi_batch_size: Number of proposals per image in the loss.
        roi_positive_fraction: Maximum fraction of positives among the proposals in the loss.
        roi_fg_iou: IoU with an object from which a proposal is positive.
        roi_bg_iou: IoU below which a proposal is negative.
        roi_output_size: Bins per axis of a pooled box.
        roi_sampling_ratio: Samples per bin and axis.
        box_head_channels: Channels of the two fully connected layers.
        box_head_dropout: Probability that a unit of the fully connected layers is dropped, in
            training.
        pyramid_channels: Channels of the pyramid; a shared pyramid determines them itself.
        box_loss: Box loss of both stages: `smooth_l1` on offsets or `giou` on boxes.
    """

    anchor_sizes: tuple[Pixels | Annotated[tuple[Pixels, ...], Field(max_length=16)], ...] = (
        32,
        64,
        128,
        256,
        512,
    )
    aspect_ratios: Annotated[tuple[Pixels, ...], Field(min_length=1, max_length=16)] = (
        0.5,
        1.0,
        2.0,
    )
    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.5
    detections_per_image: Count = 100
    rpn_pre_nms: tuple[Count, Count] = (2000, 1000)
    rpn_post_nms: tuple[Count, Count] = (2000, 1000)
    rpn_nms_iou: Fraction = 0.7
    rpn_batch_size: Count = 256
    rpn_positive_fraction: Fraction = 0.5
    rpn_fg_iou: Fraction = 0.7
    rpn_bg_iou: Fraction = 0.3
    roi_batch_size: Count = 512
    roi_positive_fraction: Fraction = 0.25
    roi_fg_iou: Fraction = 0.5
    roi_bg_iou: Fraction = 0.5
    roi_output_size: Bins = 7
    roi_sampling_ratio: Annotated[int, Field(ge=1, le=16)] = 2
    box_head_channels: Annotated[int, Field(ge=1, le=4096)] = 1024
    box_head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pyramid_channels: Channels = 256
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> FasterRCNNOptions:
        for stage, low, high in (
            ("rpn", self.rpn_bg_iou, self.rpn_fg_iou),
            ("roi", self.roi_bg_iou, self.roi_fg_iou),
        ):
            if low > high:
                raise ValueError(f"{stage}_bg_iou ({low}) must not exceed {stage}_fg_iou ({high})")
        return self

    @model_validator(mode="after")
    def _check_size_of_box_head(self) -> FasterRCNNOptions:
        if self.roi_output_size**2 * self.box_head_channels > MAX_BOX_HEAD:
            raise ValueError(
                f"roi_output_size ({self.roi_output_size}) squared times box_head_channels "
                f"({self.box_head_channels}) must be at most {MAX_BOX_HEAD:,}"
            )
        return self

    @property
    def sizes_per_level(self) -> tuple[tuple[float, ...], ...]:
        """Anchor sizes per level, with every entry of `anchor_sizes` converted to a tuple."""
        return split_anchor_sizes(self.anchor_sizes)


@register_head("faster_rcnn")
class FasterRCNN(Head):
    """Two-stage detector on P2..P6, computed from C2..C5 unless a shared pyramid offers P2..P6.

    Loss terms: `rpn_objectness`, `rpn_box`, `roi_classification`, `roi_box`. Targets are boxes
    `(N, 4)` float32 xyxy in input pixels with `0 <= x1 < x2 <= width` and labels `0..K-1`. Objects
    marked `ignore` are neither positive nor negative. As in torchvision, the first class logit
    belongs to the background, which has no label.

    Args:
        specs: Channels and stride of every offered level.
        classes: Class names.
        options: Options of the head, see `FasterRCNNOptions`.

    Raises:
        HeadError: If levels are missing, strides do not double, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = FasterRCNNOptions
    task: ClassVar[str] = "detection"
    in_levels: ClassVar[tuple[str, ...]] = ("C2", "C3", "C4", "C5")
    foreign_weights: ClassVar[ForeignWeights] = TorchvisionDetector()

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        classes: Sequence[str],
        options: HeadOptions | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(specs, classes, options)
        shared = self.in_levels == PYRAMID_LEVELS
        parsed_options: FasterRCNNOptions = self.options
        check_strides(self.specs, "Faster R-CNN's levels")
        self.fpn = None if shared else FeaturePyramid(self.specs, parsed_options.pyramid_channels)
        pyramid = self.specs if self.fpn is None else self.fpn.specs
        requested_channels = (
            parsed_options.pyramid_channels
            if "pyramid_channels" in parsed_options.model_fields_set
            else None
        )
        name = f"head {type(self).__name__}"
        channels = get_shared_channels(pyramid, requested_channels, name)
        strides = [spec.stride for spec in pyramid.values()]
        self.finest_stride = strides[0]
        self.rpn = RegionProposalNetwork(
            channels,
            AnchorShapes.from_options(
                parsed_options.anchor_sizes,
                parsed_options.aspect_ratios,
                PYRAMID_LEVELS,
                "FasterRCNN",
            ),
            sampling=CandidateSampler(
                IouMatcher(
                    parsed_options.rpn_fg_iou, parsed_options.rpn_bg_iou, best_is_positive=True
                ),
                parsed_options.rpn_batch_size,
                parsed_options.rpn_positive_fraction,
            ),
            nms_iou=parsed_options.rpn_nms_iou,
            box_loss=parsed_options.box_loss,
        )
        self.roi_heads = self._build_roi_heads(channels, strides[:-1])  # P6: proposals only

    def _build_roi_heads(self, channels: int, strides: Sequence[int]) -> RoiHeads:
        """Build the second stage on levels of the given channels and strides."""
        return RoiHeads(*self._get_roi_arguments(channels, strides), **self._get_roi_options())

    def _get_roi_arguments(
        self, channels: int, strides: Sequence[int]
    ) -> tuple[BoxHead, Sequence[int], int]:
        options: FasterRCNNOptions = self.options
        box_head = BoxHead(
            channels * options.roi_output_size**2,
            options.box_head_channels,
            options.box_head_dropout,
        )
        return box_head, strides, len(self.classes)

    def _get_roi_options(self) -> dict[str, Any]:
        options: FasterRCNNOptions = self.options
        return {
            "output_size": options.roi_output_size,
            "sampling_ratio": options.roi_sampling_ratio,
            "sampling": CandidateSampler(
                IouMatcher(options.roi_fg_iou, options.roi_bg_iou),
                options.roi_batch_size,
                options.roi_positive_fraction,
            ),
            "box_loss": options.box_loss,
        }

    @classmethod
    def levels(cls, specs: Mapping[str, FeatureSpec], options: Any) -> tuple[str, ...]:
        """Return the levels of a shared pyramid if there is one, else those of the backbone."""
        if has_shared_pyramid(specs, PYRAMID_LEVELS, "pooled", f"head {cls.__name__}"):
            return PYRAMID_LEVELS
        return super().levels(specs, options)

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the loss terms of both stages, normalized as in torchvision.

        Anchors and proposals are sampled with `view.seeds`.
        """
        levels = self._compute_pyramid(features)
        rois, terms = self._compute_first_stage(levels, view)
        return {**terms, **self.roi_heads.loss(levels[:-1], rois)}

    def _compute_first_stage(
        self, levels: Sequence[Tensor], view: BatchView
    ) -> tuple[SampledRois, dict[str, LossTerm]]:
        """Sample the proposals for the second stage, and compute the loss terms of the first."""
        output = self.rpn.forward_without_grad(levels, self._get_padded_size(levels))
        limits = levels[0].new_tensor(
            [(width, height) for height, width in view.image_sizes], dtype=torch.float32
        )
        proposals, valid = self.rpn.select_proposals(
            output,
            limits,
            before_nms=self.options.rpn_pre_nms[0],
            after_nms=self.options.rpn_post_nms[0],
        )
        terms = self.rpn.loss(torch.cat(output.anchors), levels, view)
        return self.roi_heads.sample(proposals, valid, view), terms

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Detect objects: apply score threshold and NMS, and pad to `detections_per_image` (D).

        Returns:
            `boxes` `(B, D, 4)` float32 xyxy in input pixels, clipped to the padded batch; `scores`
            `(B, D)` float32 in descending order; `labels` `(B, D)` int64; `valid` `(B, D)` bool.
        """
        return self._detect(self._compute_pyramid(features))

    def _detect(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        height, width = self._get_padded_size(levels)
        output = self.rpn(levels, (height, width))
        limits = stack_numbers((width, height), levels[0].device)[None].float()
        proposals, valid = self.rpn.select_proposals(
            output,
            limits,
            before_nms=self.options.rpn_pre_nms[1],
            after_nms=self.options.rpn_post_nms[1],
        )
        return self.roi_heads.detect(
            levels[:-1],
            proposals,
            valid,
            limits,
            score_threshold=self.options.score_threshold,
            nms_iou=self.options.nms_iou,
            detections_per_image=self.options.detections_per_image,
        )

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Clip the detections to the images, best first.

        Boxes that lie entirely in the padding of the batch become invalid.

        Args:
            raw: Result of `forward`.
            sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.

        Returns:
            `boxes` `(B, D, 4)` float32 xyxy in input pixels; `scores` `(B, D)` float32, in
            descending order; `labels` `(B, D)` int64; `valid` `(B, D)` bool. Slots without a
            detection come last and hold zeros.
        """
        return sort_detections(self._clip(raw, sizes))

    def _clip(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Clip the boxes to the images; boxes without an area become invalid."""
        boxes = clip_boxes(raw["boxes"].float(), sizes.flip(1)[:, None].float())
        valid = raw["valid"] & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        return {
            "boxes": boxes,
            "scores": raw["scores"].float(),
            "labels": raw["labels"],
            "valid": valid,
        }

    def _compute_pyramid(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        pyramid = features if self.fpn is None else self.fpn(features)
        return [pyramid[level] for level in PYRAMID_LEVELS]

    def _get_padded_size(self, levels: Sequence[Tensor]) -> tuple[int | Tensor, int | Tensor]:
        height, width = (get_size(levels[0], axis) * self.finest_stride for axis in (2, 3))
        return height, width
