"""Mask R-CNN: Faster R-CNN whose second stage also predicts a mask per box.

Source: He et al., Mask R-CNN, ICCV 2017, on a feature pyramid. Parameter names are torchvision's,
whose `maskrcnn_resnet50_fpn` predicts the same boxes and masks with the same weights.

Shape glossary: `B` batch size, `D` detections per image, `M` cells per axis of a mask (28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from resnet_tasks.heads.base import HeadOptions, register_head
from resnet_tasks.heads.foreign_weights import ForeignWeights
from resnet_tasks.heads.rcnn.faster_rcnn import Bins, Channels, FasterRCNN, FasterRCNNOptions
from resnet_tasks.heads.rcnn.foreign_weights import TorchvisionMaskDetector
from resnet_tasks.heads.rcnn.mask_branch import MaskHead, MaskRoiHeads, crop_masks
from resnet_tasks.heads.rcnn.roi import RoiHeads
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView


class MaskRCNNOptions(FasterRCNNOptions):
    """Options of `MaskRCNN`: those of `FasterRCNN`, and those of the mask branch.

    Attributes:
        mask_roi_output_size: Bins per axis of a box that is pooled for its mask, which has twice as
            many cells per axis.
        mask_head_channels: Channels of each convolution of the mask branch.
        mask_predictor_channels: Channels of the upsampled map before the last layer.
    """

    mask_roi_output_size: Bins = 14
    mask_head_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=16)] = (
        256,
        256,
        256,
        256,
    )
    mask_predictor_channels: Channels = 256


@register_head("mask_rcnn")
class MaskRCNN(FasterRCNN):
    """Two-stage instance segmentation on P2..P6, computed from C2..C5 unless shared.

    Loss terms: those of `FasterRCNN`, and `mask`, the binary cross entropy of the mask of the
    object's class, averaged over the positive proposals whose object has a mask. Objects without a
    mask train the box branch only. Targets are as in `FasterRCNN`, with `masks` where annotated.

    Args:
        specs: Channels and stride of every offered level.
        classes: Class names.
        options: Options of the head, see `MaskRCNNOptions`.

    Raises:
        HeadError: If levels are missing, strides do not double, or an option is invalid.
    """

    Options: ClassVar[type[HeadOptions]] = MaskRCNNOptions
    task: ClassVar[str] = "instance_segmentation"
    foreign_weights: ClassVar[ForeignWeights] = TorchvisionMaskDetector()
    options: MaskRCNNOptions
    roi_heads: MaskRoiHeads

    def _build_roi_heads(self, channels: int, strides: Sequence[int]) -> RoiHeads:
        options = self.options
        return MaskRoiHeads(
            *self._get_roi_arguments(channels, strides),
            **self._get_roi_options(),
            mask_head=MaskHead(channels, options.mask_head_channels),
            predictor_channels=options.mask_predictor_channels,
            mask_output_size=options.mask_roi_output_size,
        )

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the loss terms of both stages and of the masks, normalized as in torchvision."""
        levels = self._compute_pyramid(features)
        rois, terms = self._compute_first_stage(levels, view)
        return {**terms, **self.roi_heads.compute_all_losses(levels[:-1], rois, view)}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Detect objects and their masks.

        Returns:
            Fields of `FasterRCNN.forward`, and `mask_logits` `(B, D, M, M)` float32: logits of the
            mask of the detected class over the box.
        """
        levels = self._compute_pyramid(features)
        raw = self._detect(levels)
        raw["mask_logits"] = self.roi_heads.predict_masks(
            levels[:-1], raw["boxes"], raw["labels"], raw["valid"]
        )
        return raw

    def _clip(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        clipped = super()._clip(raw, sizes)
        masks = crop_masks(raw["mask_logits"].float(), raw["boxes"].float(), clipped["boxes"])
        return {**clipped, "mask_logits": masks}
