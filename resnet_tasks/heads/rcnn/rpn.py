"""First stage: proposals of boxes that may contain an object.

Source: Ren et al., Faster R-CNN, NeurIPS 2015, section 3, on a feature pyramid (Lin et al.,
CVPR 2017, section 4.1). Parameter names are torchvision's.

The loss reads a few hundred of tens of thousands of anchors. The complete maps are therefore
computed without an autograd graph, for the proposals. The loss recomputes the outputs at its cells
only: values and gradients are the same, without the backward of convolutions over whole levels.

Shape glossary: `B` images, `A` anchors per cell, `Hk, Wk` cells of level k, `M` anchors of all
levels, `T` candidates before NMS, `R` proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms

from resnet_tasks.heads.rcnn.matching import (
    CandidateSampler,
    compute_box_loss,
    extract_objects,
    make_generator,
)
from resnet_tasks.layers.tracing import is_traced
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

MIN_SIZE = 1e-3  # pixels, as in torchvision's RegionProposalNetwork
STAGE = 0
"""Number that separates the random draws of this stage from those of the second stage."""


@dataclass(frozen=True)
class AnchorShapes:
    """Anchor shapes of every level.

    Attributes:
        sizes: Sides of the square anchors of each level, input pixels.
        aspect_ratios: Height / width of the anchors, shared by all levels.
    """

    sizes: tuple[tuple[float, ...], ...]
    aspect_ratios: tuple[float, ...]

    @property
    def per_cell(self) -> int:
        """Number of anchors per cell, the same on every level."""
        return len(self.sizes[0]) * len(self.aspect_ratios)

    def generate(
        self, cells: tuple[tuple[int, int], ...], padded_size: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Generate all anchors of a batch.

        Args:
            cells: (rows, columns) of each level.
            padded_size: (height, width) of the batch in pixels.
            device: Device of the result.

        Returns:
            `(M, 4)` float32 xyxy, input pixels; ordered by level, row, column and shape.
        """
        if is_traced():
            return _make_anchors(self, cells, padded_size, device)
        return _make_cached_anchors(self, cells, padded_size, device)


def _make_anchors(
    anchors: AnchorShapes,
    cells: tuple[tuple[int, int], ...],
    padded_size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    generator = AnchorGenerator(anchors.sizes, (anchors.aspect_ratios,) * len(anchors.sizes))
    generator.set_cell_anchors(torch.float32, device)
    # torchvision's step for P6 is rounded if the level below has an odd size. The rounding is kept,
    # because torchvision's checkpoints were trained with it.
    steps = [(padded_size[0] // rows, padded_size[1] // columns) for rows, columns in cells]
    return torch.cat(generator.grid_anchors([list(size) for size in cells], steps))


@lru_cache(maxsize=32)
def _make_cached_anchors(
    anchors: AnchorShapes,
    cells: tuple[tuple[int, int], ...],
    padded_size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    # Tensors that are created in inference mode could not be saved for a later backward.
    with torch.inference_mode(mode=False):
        return _make_anchors(anchors, cells, padded_size, device)


@dataclass(frozen=True)
class RpnOutput:
    """Output of the first stage for every anchor.

    Attributes:
        objectness_logits: `(B, M)` in the dtype of the features.
        box_deltas: `(B, M, 4)` in the dtype of the features.
        anchors: `(M, 4)` float32 xyxy, input pixels.
        per_level: Number of anchors of each level; the numbers sum to M.
    """

    objectness_logits: Tensor
    box_deltas: Tensor
    anchors: Tensor
    per_level: tuple[int, ...]


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
        box_loss: str,
    ) -> None:
        super().__init__()
        self.head = RpnHead(channels, anchors.per_cell)
        self.anchors = anchors
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.sampling = sampling
        self.nms_iou = nms_iou
        self.box_loss = box_loss

    def forward(self, levels: Sequence[Tensor], padded_size: tuple[int, int]) -> RpnOutput:
        """Predict objectness and box deltas of every anchor.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            padded_size: (height, width) of the batch in pixels.
        """
        outputs = [self.head(level) for level in levels]
        cells = tuple((level.shape[2], level.shape[3]) for level in levels)
        return RpnOutput(
            objectness_logits=torch.cat([logits for logits, _ in outputs], dim=1),
            box_deltas=torch.cat([deltas for _, deltas in outputs], dim=1),
            anchors=self.anchors.generate(cells, padded_size, levels[0].device),
            per_level=tuple(logits.shape[1] for logits, _ in outputs),
        )

    @torch.no_grad()
    def select_proposals(
        self, output: RpnOutput, limits: Tensor, *, before_nms: int, after_nms: int
    ) -> tuple[Tensor, Tensor]:
        """Select the best boxes of every image, best first.

        Args:
            output: Result of `forward`.
            limits: `(B, 2)` float32, (width, height) that boxes are clipped to.
            before_nms: Candidates per level before NMS.
            after_nms: Proposals per image after NMS.

        Returns:
            Boxes `(B, R, 4)` float32 xyxy in input pixels, and `(B, R)` bool, False for padding.
        """
        scores, boxes, levels = self._select_candidates(output, before_nms)
        limits = limits[:, None, :].repeat(1, 1, 2)
        boxes = torch.minimum(boxes.clamp(min=0), limits)
        sides = boxes[..., 2:] - boxes[..., :2]
        # Boxes that are too small (or not finite) come last, so that they suppress no other box.
        scores = scores.masked_fill(~(sides >= MIN_SIZE).all(dim=2), -1.0)
        images = torch.arange(len(boxes), device=boxes.device)[:, None]
        groups = (images * len(output.per_level) + levels).flatten()
        kept_indices = batched_nms(boxes.flatten(0, 1), scores.flatten(), groups, self.nms_iou)
        survives = torch.zeros_like(groups, dtype=torch.bool)
        survives[kept_indices] = True
        scores = scores.masked_fill(~survives.view_as(scores), -1.0)
        best, order = scores.topk(min(after_nms, scores.shape[1]), dim=1)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), best >= 0

    def _select_candidates(
        self, output: RpnOutput, per_level: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Select the best anchors per level: scores `(B, T)`, boxes `(B, T, 4)`, levels `(T,)`."""
        logits = output.objectness_logits.float()
        selected, levels, first = [], [], 0
        for level, count in enumerate(output.per_level):
            best = logits[:, first : first + count].topk(min(per_level, count), dim=1).indices
            selected.append(best + first)
            levels.append(torch.full_like(best[0], level))
            first += count
        index = torch.cat(selected, dim=1)
        spread = index[..., None].expand(-1, -1, 4)
        deltas = output.box_deltas.gather(1, spread).float()
        boxes = self.coder.decode_single(deltas.flatten(0, 1), output.anchors[index].flatten(0, 1))
        return logits.gather(1, index).sigmoid(), boxes.view_as(deltas), torch.cat(levels)

    def forward_without_grad(
        self, levels: Sequence[Tensor], padded_size: tuple[int, int]
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
