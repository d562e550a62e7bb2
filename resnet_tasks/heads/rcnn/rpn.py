"""First stage: proposals of boxes that may contain an object.

Source: Ren et al., Faster R-CNN, NeurIPS 2015, section 3, on a feature pyramid (Lin et al.,
CVPR 2017, section 4.1). Parameter names are torchvision's.

The loss needs only a few hundred of tens of thousands of anchors. The complete maps are therefore
computed without an autograd graph, for the proposals. The loss recomputes the outputs at its cells
only: values and gradients are the same, without the backward of convolutions over whole levels.

Shape glossary: `B` images, `L` levels, `A` anchors per cell, `Hk, Wk` cells and `Mk` anchors of
level k, `M` anchors of all levels, `T` candidates per level before NMS, `R` proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.layers.anchors import AnchorShapes
from resnet_tasks.layers.box_coders import BoxCoder, clip_boxes, has_min_size
from resnet_tasks.layers.detection_losses import BoxLoss, compute_box_loss
from resnet_tasks.layers.matchers import extract_objects
from resnet_tasks.layers.nms import compute_nms_mask
from resnet_tasks.layers.samplers import CandidateSampler, make_generator
from resnet_tasks.layers.tracing import FILLER, get_size, join_slots, select_top
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

MIN_SIZE = 1e-3  # pixels, as in torchvision's RegionProposalNetwork
INVALID = -1.0
"""Score of an empty slot."""
STAGE = 0
"""Number that separates the random draws of this stage from those of the second stage."""


@dataclass(frozen=True)
class RpnOutput:
    """Output of the first stage for every anchor, per level.

    Attributes:
        objectness_logits: `(B, Mk)` each, in the dtype of the features.
        box_deltas: `(B, Mk, 4)` each, in the dtype of the features.
        anchors: `(Mk, 4)` float32 xyxy each, input pixels.
    """

    objectness_logits: tuple[Tensor, ...]
    box_deltas: tuple[Tensor, ...]
    anchors: tuple[Tensor, ...]


class RpnHead(nn.Module):
    """Convolutions that all levels share.

    Args:
        channels: Channels of every level.
        per_cell: Number of anchors per cell.
    """

    def __init__(self, channels: int, per_cell: int) -> None:
        super().__init__()
        layer = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
        self.conv = nn.Sequential(layer)
        self.cls_logits = nn.Conv2d(channels, per_cell, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * per_cell, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)  # Faster R-CNN, section 3.1.3
                nn.init.zeros_(module.bias)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(B, channels, Hk, Wk)` to logits `(B, Hk*Wk*A)` and deltas `(B, Hk*Wk*A, 4)`."""
        hidden = self.conv(level)
        logits = self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4)
        return logits, deltas

    def predict_cells(
        self, levels: Sequence[Tensor], images: Tensor, cells: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the output of `forward` at some cells, as matrix products of their neighborhoods.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            images: `(N,)` int64, index of the image of each cell.
            cells: `(N,)` int64, index of the cell over all levels, row by row.

        Returns:
            Logits `(N, A)` and deltas `(N, A, 4)`.
        """
        patches, places, first = [], [], 0
        for level in levels:
            count = level.shape[2] * level.shape[3]
            level_rows = torch.where((cells >= first) & (cells < first + count))[0]
            places.append(level_rows)
            patches.append(_extract_patches(level, images[level_rows], cells[level_rows] - first))
            first += count
        convolution = self.conv[0][0]  # type: ignore[index]
        weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        hidden = F.relu(F.linear(torch.cat(patches), weight, convolution.bias))
        logits = F.linear(hidden, self.cls_logits.weight.flatten(1), self.cls_logits.bias)
        deltas = F.linear(hidden, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias)
        order = torch.cat(places).argsort()
        return logits[order], deltas[order].view(len(order), deltas.shape[1] // 4, 4)


def _extract_patches(level: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """Extract the 3x3 neighborhoods of cells, with 0 outside the map.

    Args:
        level: `(B, channels, Hk, Wk)`; channels-last memory is the fastest.
        images: `(N,)` int64, index of the image of each cell.
        cells: `(N,)` int64, index of the cell, row by row.

    Returns:
        `(N, 9 * channels)`, ordered by position and then by channel.
    """
    _, channels, height, width = level.shape
    steps = torch.arange(-1, 2, device=level.device)
    rows = (cells // width)[:, None] + steps.repeat_interleave(3)
    columns = (cells % width)[:, None] + steps.repeat(3)
    outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    index = (images[:, None] * height + rows) * width + columns
    table = level.permute(0, 2, 3, 1).reshape(-1, channels)
    patches = table.index_select(0, index.flatten()).view(len(cells), 9, channels)
    return patches.masked_fill(outside[..., None], 0.0).flatten(1)


class RegionProposalNetwork(nn.Module):
    """First stage of the detector.

    Args:
        channels: Channels of every level.
        anchors: Anchor shapes of the levels.
        sampling: Sampler of the anchors for the loss.
        nms_iou: IoU above which two proposals of one level are duplicates.
        box_loss: `smooth_l1` or `giou`.
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorShapes,
        *,
        sampling: CandidateSampler,
        nms_iou: float,
        box_loss: BoxLoss,
    ) -> None:
        super().__init__()
        self.head = RpnHead(channels, anchors.per_cell)
        self.anchors = anchors
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.sampling = sampling
        self.nms_iou = nms_iou
        self.box_loss = box_loss

    def forward(
        self, levels: Sequence[Tensor], padded_size: tuple[int | Tensor, int | Tensor]
    ) -> RpnOutput:
        """Predict objectness and box deltas of every anchor.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            padded_size: (height, width) of the batch in pixels.
        """
        outputs = [self.head(level) for level in levels]
        return RpnOutput(
            objectness_logits=tuple(logits for logits, _ in outputs),
            box_deltas=tuple(deltas for _, deltas in outputs),
            anchors=self.anchors.generate(levels, padded_size),
        )

    @torch.no_grad()
    def select_proposals(
        self, output: RpnOutput, limits: Tensor, *, before_nms: int, after_nms: int
    ) -> tuple[Tensor, Tensor]:
        """Select the best boxes of every image, best first.

        Args:
            output: Result of `forward`.
            limits: `(B, 2)` or `(1, 2)` float32, (width, height) that boxes are clipped to.
            before_nms: Candidates T per level before NMS.
            after_nms: Maximum number of proposals per image after NMS.

        Returns:
            Boxes `(B, R, 4)` float32 xyxy in input pixels, and `(B, R)` bool, False in slots
            without a proposal; R is at most `after_nms`.
        """
        scores, boxes = self._select_candidates(output, before_nms)
        boxes = clip_boxes(boxes, limits[:, None, None])
        # Boxes that are too small (or not finite) must not suppress others.
        scores = torch.where(has_min_size(boxes, MIN_SIZE), scores, INVALID)
        survives = compute_nms_mask(
            boxes.flatten(0, 1),
            scores.flatten(0, 1),
            iou_threshold=self.nms_iou,
            score_threshold=INVALID / 2,
        )
        scores = torch.where(survives.view_as(scores), scores, INVALID)
        sizes = [get_size(level_anchors, 0) for level_anchors in output.anchors]
        scores, boxes = join_slots(scores, sizes), join_slots(boxes, sizes)
        best, order = scores.topk(min(after_nms, int(scores.shape[1])), dim=1)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), best >= 0

    def _select_candidates(self, output: RpnOutput, count: int) -> tuple[Tensor, Tensor]:
        """Select the best anchors per level: scores `(B, L, T)` and boxes `(B, L, T, 4)`.

        Scores are `INVALID` in slots beyond the number of anchors of a level.
        """
        logits, deltas, anchors = [], [], []
        for level_logits, level_deltas, level_anchors in zip(
            output.objectness_logits, output.box_deltas, output.anchors, strict=True
        ):
            best, positions = select_top(level_logits.float(), count)
            logits.append(best)
            deltas.append(level_deltas.gather(1, positions[..., None].expand(-1, -1, 4)))
            anchors.append(level_anchors[positions])
        best_logits = torch.stack(logits, dim=1)
        scores = torch.where(best_logits > FILLER, best_logits.sigmoid(), INVALID)
        boxes = self.coder.decode(torch.stack(deltas, dim=1).float(), torch.stack(anchors, dim=1))
        return scores, boxes

    def forward_without_grad(
        self, levels: Sequence[Tensor], padded_size: tuple[int | Tensor, int | Tensor]
    ) -> RpnOutput:
        """Run `forward` without gradients, for the proposals; `loss` computes the gradients."""
        # Autocast caches cast weights. Those cast here have no graph, and `loss` would reuse them.
        keeps = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            with torch.no_grad():
                output: RpnOutput = self(levels, padded_size)
        finally:
            torch.set_autocast_cache_enabled(keeps)
        return output

    def loss(
        self, anchors: Tensor, levels: Sequence[Tensor], view: BatchView
    ) -> dict[str, LossTerm]:
        """Compute `rpn_objectness` and `rpn_box`, both per sampled anchor.

        Args:
            anchors: `(M, 4)` float32 xyxy, input pixels.
            levels: `(B, channels, Hk, Wk)` each, finest first.
            view: Batch with the labels of this head.
        """
        num_anchors = len(anchors)
        positives, negatives, sources, target_boxes = [], [], [], []
        for image, target in enumerate(view.targets):
            boxes, _, ignored = extract_objects(target)
            generator = make_generator(view.seeds[image], STAGE)
            positive, negative, matched_indices = self.sampling.sample(
                anchors, boxes, ignored, generator
            )
            positives.append(positive + image * num_anchors)
            negatives.append(negative + image * num_anchors)
            sources.append(anchors[positive])
            target_boxes.append(boxes[matched_indices])
        positive, negative = torch.cat(positives), torch.cat(negatives)
        rows = torch.cat((positive, negative))
        logits, deltas = self._predict_anchors(levels, rows, num_anchors)
        is_object = torch.zeros_like(logits)
        is_object[: len(positive)] = 1.0
        objectness = F.binary_cross_entropy_with_logits(logits, is_object, reduction="sum")
        box = compute_box_loss(
            deltas[: len(positive)],
            torch.cat(sources),
            torch.cat(target_boxes),
            self.coder,
            self.box_loss,
        )
        count = objectness.new_tensor(float(len(rows)))
        return {"rpn_objectness": LossTerm(objectness, count), "rpn_box": LossTerm(box, count)}

    def _predict_anchors(
        self, levels: Sequence[Tensor], rows: Tensor, num_anchors: int
    ) -> tuple[Tensor, Tensor]:
        """Predict float32 logits `(N,)` and deltas `(N, 4)` of anchors indexed over all images."""
        per_cell = self.anchors.per_cell
        # Anchors of one cell share its neighborhood, so that every cell is computed once.
        cells, place = torch.unique(rows // per_cell, return_inverse=True)
        per_image = num_anchors // per_cell
        logits, deltas = self.head.predict_cells(levels, cells // per_image, cells % per_image)
        anchor = rows % per_cell
        return logits[place, anchor].float(), deltas[place, anchor].float()
