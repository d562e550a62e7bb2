"""Mask branch of Mask R-CNN: the mask of each box as a small grid over the box.

Source: He et al., Mask R-CNN, ICCV 2017, section 3 and figure 4 (right). Parameter names are
torchvision's. The last layer computes one mask per class, of which only that of the box's class is
used. Here only this one is computed.

Shape glossary: `B` images, `Q` boxes, `C` channels, `D` detections per image, `K` classes, `S` bins
per axis of a pooled box, `M = 2 S` cells per axis of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.rcnn.roi import RoiHeads, SampledRois
from resnet_tasks.layers.mask_targets import sample_masks
from resnet_tasks.layers.roi_align import RoiRequest, pool_together
from resnet_tasks.layers.roi_layers import apply_to_rois
from resnet_tasks.layers.tracing import is_traced
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

BLOCK_BOXES = 50
"""Number of boxes whose masks are predicted together."""


class MaskHead(nn.Sequential):
    """3x3 convolutions with ReLU.

    Args:
        in_channels: Channels of a pooled box.
        channels: Output channels of each convolution.
    """

    def __init__(self, in_channels: int, channels: Sequence[int]) -> None:
        inputs = (in_channels, *channels[:-1])
        super().__init__(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True))
                for before, after in zip(inputs, channels, strict=True)
            )
        )
        self.out_channels = channels[-1]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


class MaskPredictor(nn.Module):
    """Upsampling by a transposed convolution, and one mask per class.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the upsampled map.
        num_classes: Number of classes without the background. As in torchvision, the background
            also has a mask, which is never used.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv5_mask = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.mask_fcn_logits = nn.Conv2d(channels, num_classes + 1, 1)
        nn.init.kaiming_normal_(self.conv5_mask.weight, mode="fan_out", nonlinearity="relu")
        # As in Detectron2: masks start at a probability of about 0.5. torchvision scales by the
        # number of classes instead, which starts at a loss above 10 with one class.
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)
        assert self.mask_fcn_logits.bias is not None
        nn.init.zeros_(self.mask_fcn_logits.bias)

    def forward(self, hidden: Tensor, classes: Tensor) -> Tensor:
        """Compute the mask of one class per box.

        Args:
            hidden: `(Q, C, S, S)`.
            classes: `(Q,)` int64, label plus 1.

        Returns:
            `(Q, M, M)` float32 logits.
        """
        upsampled = F.relu(self.conv5_mask(hidden), inplace=True)
        weights = self.mask_fcn_logits.weight.flatten(1)[classes][..., None]  # (Q, C, 1)
        bias = self.mask_fcn_logits.bias
        assert bias is not None
        # Channels last, so that the rows of the product are contiguous.
        logits = upsampled.permute(0, 2, 3, 1).flatten(1, 2) @ weights
        logits = logits.float() + bias[classes][:, None, None].float()
        return logits.view(-1, *upsampled.shape[2:])


class MaskRoiHeads(RoiHeads):
    """Second stage of the detector with a mask branch next to the box branch.

    Args:
        arguments: Positional arguments of `RoiHeads`.
        mask_head: Convolutions of the mask branch.
        predictor_channels: Channels of the upsampled map of the mask branch.
        mask_output_size: Bins per axis of a box that is pooled for the mask branch.
        options: Keyword arguments of `RoiHeads`.
    """

    def __init__(
        self,
        *arguments: Any,
        mask_head: MaskHead,
        predictor_channels: int,
        mask_output_size: int,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.mask_head = mask_head
        self.mask_predictor = MaskPredictor(
            mask_head.out_channels, predictor_channels, self.num_classes
        )
        self.mask_output_size = mask_output_size

    def compute_all_losses(
        self, levels: Sequence[Tensor], rois: SampledRois, view: BatchView
    ) -> dict[str, LossTerm]:
        """Compute the loss terms of the box branch, and `mask`.

        `mask` is the binary cross entropy per positive whose object has a mask.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            rois: Proposals that the second stage learns from.
            view: Batch with the labels of this head. Targets without masks, and objects without
                a mask, contribute nothing.
        """
        rows, targets = self._select_mask_targets(rois, view)
        pooled = pool_together(
            levels,
            self.strides,
            [
                RoiRequest(rois.boxes, rois.images, self.output_size),
                RoiRequest(rois.boxes[rows], rois.images[rows], self.mask_output_size),
            ],
            sampling_ratio=self.sampling_ratio,
        )
        # `pop` drops the last reference, so that the unflattened tensor is freed before the layers.
        terms = self.compute_losses(pooled.pop(0).flatten(1), rois)
        logits = self.mask_predictor(self.mask_head(pooled.pop()), rois.classes[rows])
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        cells = (2 * self.mask_output_size) ** 2
        count = losses.new_tensor(float(len(rows)))
        return {**terms, "mask": LossTerm(losses.sum() / cells, count)}

    @torch.no_grad()
    def _select_mask_targets(self, rois: SampledRois, view: BatchView) -> tuple[Tensor, Tensor]:
        """Return the positions `(Q,)` of proposals with a mask, and their targets `(Q, M, M)`."""
        size = 2 * self.mask_output_size
        positive_images = rois.images[rois.positives]
        selected = [rois.positives[:0]]
        targets = [rois.boxes.new_zeros((0, size, size))]
        for image, target in enumerate(view.targets):
            if target.masks is None:
                continue
            positions = torch.where(positive_images == image)[0]
            objects = rois.objects[positions]
            if target.ignore is not None:
                # `rois.objects` counts only objects that are not ignored; `masks` holds all.
                objects = torch.where(~target.ignore)[0][objects]
            has_mask = target.masks.annotated[objects]
            rows = rois.positives[positions[has_mask]]
            selected.append(rows)
            targets.append(
                sample_masks(
                    target.masks,
                    objects[has_mask],
                    rois.boxes[rows],
                    view.image_sizes[image],
                    output_size=size,
                )
            )
        return torch.cat(selected), torch.cat(targets)

    def predict_masks(
        self, levels: Sequence[Tensor], boxes: Tensor, labels: Tensor, valid: Tensor
    ) -> Tensor:
        """Predict the masks of detections.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            boxes: `(B, D, 4)` float32 xyxy, input pixels.
            labels: `(B, D)` int64.
            valid: `(B, D)` bool, False in slots without a detection.

        Returns:
            `(B, D, M, M)` float32 logits of the mask over the box; zeros in slots without a
            detection.
        """
        (logits,) = apply_to_rois(
            self._predict_in_blocks,
            levels,
            self.strides,
            boxes,
            valid,
            labels,
            output_size=self.mask_output_size,
            sampling_ratio=self.sampling_ratio,
        )
        return logits.masked_fill(~valid[..., None, None], 0.0)

    def _predict_in_blocks(self, pooled: Tensor, labels: Tensor) -> tuple[Tensor]:
        """Map pooled features `(Q, C, S, S)` and labels `(Q,)` to mask logits `(Q, M, M)`.

        Blocks of boxes bound the memory of the upsampled map, which takes most of it. A traced
        graph, whose shapes must not depend on the data, computes all boxes at once.
        """
        if is_traced():
            return (self.mask_predictor(self.mask_head(pooled), labels + 1),)
        logits = [
            self.mask_predictor(self.mask_head(block), block_labels + 1)
            for block, block_labels in zip(
                torch.split(pooled, BLOCK_BOXES), torch.split(labels, BLOCK_BOXES), strict=True
            )
        ]
        return (torch.cat(logits),)


def crop_masks(logits: Tensor, boxes: Tensor, cropped_boxes: Tensor) -> Tensor:
    """Resample masks over boxes to smaller boxes inside them.

    A mask whose box stays the same is returned unchanged.

    Args:
        logits: `(B, D, M, M)` float32, masks over `boxes`.
        boxes: `(B, D, 4)` float32 xyxy.
        cropped_boxes: `(B, D, 4)` float32 xyxy, inside `boxes`.

    Returns:
        `(B, D, M, M)` float32, masks over `cropped_boxes`, interpolated bilinearly.
    """
    size = logits.shape[-1]
    steps = torch.arange(size, device=logits.device)
    matrices = []
    for axis in (1, 0):
        low, high = boxes[..., axis], boxes[..., axis + 2]
        length = (high - low).clamp(min=1e-6)
        start = (cropped_boxes[..., axis] - low) / length
        scale = (cropped_boxes[..., axis + 2] - cropped_boxes[..., axis]) / length
        # Cell centers of the new grid in cells of the old one; i itself where nothing is cropped.
        places = start[..., None] * size + (steps + 0.5) * scale[..., None] - 0.5
        distance = (places.clamp(0, size - 1)[..., None] - steps).abs()
        matrices.append((1 - distance).clamp(min=0))
    rows, columns = matrices
    return rows @ logits @ columns.transpose(-1, -2)
