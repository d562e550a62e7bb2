"""Second stage: class and exact box of each proposal.

Source: Girshick, Fast R-CNN, ICCV 2015, on a feature pyramid (Lin et al., CVPR 2017, section 4.2).
Parameter names and the position of the background logit (first) are torchvision's.

Shape glossary: `B` images, `K` classes, `R` proposals per image, `Q` proposals of the batch,
`D` detections per image, `S` bins per axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.layers.box_coders import BoxCoder, clip_boxes, has_min_size
from resnet_tasks.layers.detection_losses import BoxLoss, compute_box_loss
from resnet_tasks.layers.dropout import sample_unit_mask
from resnet_tasks.layers.matchers import extract_objects
from resnet_tasks.layers.nms import compute_nms_mask
from resnet_tasks.layers.roi_align import multilevel_roi_align
from resnet_tasks.layers.roi_layers import apply_to_rois
from resnet_tasks.layers.samplers import CandidateSampler, make_generator
from resnet_tasks.layers.tracing import argsort_rows_descending
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

MIN_SIZE = 1e-2  # pixels, as in torchvision's RoIHeads
INVALID = -1.0
"""Score of an empty slot."""
STAGE = 1
"""Number that separates the random draws of this stage from those of the first stage."""


@dataclass(frozen=True)
class SampledRois:
    """Proposals that the loss of the second stage is computed on, image by image.

    In every image the positives come first.

    Attributes:
        boxes: `(Q, 4)` float32 xyxy, input pixels.
        images: `(Q,)` int64, index of the image of each box.
        classes: `(Q,)` int64, 0 for the background, else the label of the object plus 1.
        counts: Number of boxes of each image.
        positives: `(P,)` int64, positions of the boxes with an object.
        objects: `(P,)` int64 for each positive, index of its object among those of its image that
            are not ignored.
        target_boxes: `(P, 4)` float32 xyxy, boxes of these objects.
        generators: Random generators of the images.
    """

    boxes: Tensor
    images: Tensor
    classes: Tensor
    counts: tuple[int, ...]
    positives: Tensor
    objects: Tensor
    target_boxes: Tensor
    generators: tuple[torch.Generator, ...]


class BoxHead(nn.Module):
    """Two fully connected layers.

    Args:
        in_features: Channels times bins of a pooled box.
        channels: Channels of both layers.
        dropout: Probability that a unit of either layer is dropped, see `sample_dropout_masks`.
    """

    def __init__(self, in_features: int, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6 = nn.Linear(in_features, channels)
        self.fc7 = nn.Linear(channels, channels)
        self.dropout = dropout

    def forward(self, pooled: Tensor, dropout_masks: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map `(Q, C * S * S)` to `(Q, channels)`; `dropout_masks` scale the two hidden layers."""
        hidden = F.relu(self.fc6(pooled))
        if dropout_masks is None:
            return F.relu(self.fc7(hidden))
        return F.relu(self.fc7(hidden * dropout_masks[0])) * dropout_masks[1]

    def sample_dropout_masks(
        self, counts: Sequence[int], generators: Sequence[torch.Generator], like: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Sample the dropout factors of both layers image by image; return None without dropout.

        Args:
            counts: Number of boxes of each image, in the order of the rows.
            generators: One generator per image.
            like: Tensor whose dtype and device the factors get.
        """
        if self.dropout == 0:
            return None
        first, second = (
            sample_unit_mask(
                counts,
                generators,
                channels=self.fc7.out_features,
                dropout=self.dropout,
                like=like,
            )
            for _ in range(2)
        )
        return first, second


class BoxPredictor(nn.Module):
    """Linear layers for the class logits and for one box per class.

    Args:
        in_features: Number of features of a box.
        num_classes: Number of classes without the background.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes + 1)
        self.bbox_pred = nn.Linear(in_features, 4 * (num_classes + 1))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map `(Q, in_features)` to float32 logits `(Q, 1 + K)` and deltas `(Q, 1 + K, 4)`."""
        deltas = self.bbox_pred(hidden).float()
        return self.cls_score(hidden).float(), deltas.unflatten(1, (-1, 4))


class RoiHeads(nn.Module):
    """Second stage of the detector.

    Args:
        box_head: Layers that read a pooled box; dropout acts in `loss`, in training mode only.
        strides: Strides of the levels that boxes are pooled from, finest first.
        num_classes: Number of classes without the background.
        output_size: Bins per axis of a pooled box.
        sampling_ratio: Samples per bin and axis.
        sampling: Sampler of the proposals for the loss.
        box_loss: `smooth_l1` or `giou`.
    """

    def __init__(
        self,
        box_head: BoxHead,
        strides: Sequence[int],
        num_classes: int,
        *,
        output_size: int,
        sampling_ratio: int,
        sampling: CandidateSampler,
        box_loss: BoxLoss,
    ) -> None:
        super().__init__()
        self.box_head = box_head
        self.box_predictor = BoxPredictor(box_head.fc7.out_features, num_classes)
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))  # torchvision's RoIHeads
        self.sampling = sampling
        self.box_loss = box_loss

    def forward(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict class logits and box deltas of every proposal.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            boxes: `(Q, 4)` float32 xyxy, input pixels.
            images: `(Q,)` int64, index of the image of each box.

        Returns:
            Class logits `(Q, 1 + K)`, background first, and box deltas `(Q, 1 + K, 4)`; float32.
        """
        logits, deltas = self.box_predictor(self.box_head(self._pool(levels, boxes, images)))
        return logits, deltas

    def _pool(self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """Pool the features of boxes, `(Q, C * S * S)`."""
        # A single expression, so that the unflattened tensor is freed before the layers run.
        return multilevel_roi_align(
            levels,
            self.strides,
            boxes,
            images,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
        ).flatten(1)

    @torch.no_grad()
    def sample(self, proposals: Tensor, valid: Tensor, view: BatchView) -> SampledRois:
        """Sample the proposals for the loss.

        Args:
            proposals: `(B, R, 4)` float32 xyxy, input pixels.
            valid: `(B, R)` bool, False for padding.
            view: Batch with the labels of this head.
        """
        sampled_boxes, images, classes, objects, target_boxes = [], [], [], [], []
        generators = tuple(make_generator(seed, STAGE) for seed in view.seeds)
        for image, target in enumerate(view.targets):
            boxes, labels, ignored = extract_objects(target)
            # As in torchvision, the true boxes are candidates too, so that there are positives
            # before the first stage is trained.
            candidates = torch.cat((proposals[image][valid[image]], boxes))
            positive, negative, matched_indices = self.sampling.sample(
                candidates, boxes, ignored, generators[image]
            )
            sampled_boxes.append(candidates[torch.cat((positive, negative))])
            images.append(labels.new_full((len(sampled_boxes[-1]),), image))
            background = torch.zeros_like(negative)
            classes.append(torch.cat((labels[matched_indices] + 1, background)))
            objects.append(matched_indices)
            target_boxes.append(boxes[matched_indices])
        all_classes = torch.cat(classes)
        return SampledRois(
            boxes=torch.cat(sampled_boxes),
            images=torch.cat(images),
            classes=all_classes,
            counts=tuple(len(image_boxes) for image_boxes in sampled_boxes),
            positives=torch.where(all_classes > 0)[0],
            objects=torch.cat(objects),
            target_boxes=torch.cat(target_boxes),
            generators=generators,
        )

    def loss(self, levels: Sequence[Tensor], rois: SampledRois) -> dict[str, LossTerm]:
        """Compute `roi_classification` and `roi_box`, both per sampled proposal.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            rois: Result of `sample`.
        """
        return self.compute_losses(self._pool(levels, rois.boxes, rois.images), rois)

    def compute_losses(self, pooled: Tensor, rois: SampledRois) -> dict[str, LossTerm]:
        """Compute the loss terms from the pooled features of the proposals, `(Q, C * S * S)`."""
        dropout_masks = (
            self.box_head.sample_dropout_masks(rois.counts, rois.generators, pooled)
            if self.training
            else None
        )
        logits, deltas = self.box_predictor(self.box_head(pooled, dropout_masks))
        classification = F.cross_entropy(logits, rois.classes, reduction="sum")
        positives = rois.positives
        box = compute_box_loss(
            deltas[positives, rois.classes[positives]],
            rois.boxes[positives],
            rois.target_boxes,
            self.coder,
            self.box_loss,
        )
        count = classification.new_tensor(float(len(rois.boxes)))
        return {
            "roi_classification": LossTerm(classification, count),
            "roi_box": LossTerm(box, count),
        }

    def detect(
        self,
        levels: Sequence[Tensor],
        proposals: Tensor,
        valid: Tensor,
        limits: Tensor,
        *,
        score_threshold: float,
        nms_iou: float,
        detections_per_image: int,
    ) -> dict[str, Tensor]:
        """Detect the objects of every image, best first, padded to a fixed number.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            proposals: `(B, R, 4)` float32 xyxy, input pixels.
            valid: `(B, R)` bool, False for padding.
            limits: `(B, 2)` or `(1, 2)` float32, (width, height) that boxes are clipped to.
            score_threshold: Lower limit of the score of a detection, exclusive.
            nms_iou: IoU above which two detections of one class are duplicates.
            detections_per_image: Number D of detections per image, padding included.

        Returns:
            `boxes` `(B, D, 4)` float32 xyxy in input pixels, `scores` `(B, D)` float32, `labels`
            `(B, D)` int64 and `valid` `(B, D)` bool; zeros in slots without a detection.
        """
        logits, deltas = apply_to_rois(
            self._predict,
            levels,
            self.strides,
            proposals,
            valid,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
        )
        probs = logits.softmax(dim=2)[..., 1:].transpose(1, 2)  # (B, K, R)
        boxes = self.coder.decode(deltas[:, :, 1:], proposals[:, :, None])
        boxes = clip_boxes(boxes, limits[:, None, None]).transpose(1, 2)  # (B, K, R, 4)
        is_candidate = valid[:, None] & (probs > score_threshold) & has_min_size(boxes, MIN_SIZE)
        scores = torch.where(is_candidate, probs, INVALID)
        survives = compute_nms_mask(
            boxes.flatten(0, 1),
            scores.flatten(0, 1),
            iou_threshold=nms_iou,
            score_threshold=0.0,
        )
        scores = torch.where(survives.view_as(scores), scores, INVALID).flatten(1)
        # Slots are a constant of the graph; fewer candidates than slots are padded.
        number = proposals.shape[1]
        count = min(detections_per_image, self.num_classes * int(number))
        best, order = scores.topk(count, dim=1)
        is_detection = best > 0
        detections = {
            "boxes": boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4)),
            "scores": best,
            "labels": torch.div(order, number, rounding_mode="trunc"),
        }
        missing = detections_per_image - count
        padded = {
            name: _pad_slots(values.masked_fill(~_align(is_detection, values), 0), missing)
            for name, values in detections.items()
        }
        return {**padded, "valid": _pad_slots(is_detection, missing)}

    def _predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map pooled features `(Q, C, S, S)` to class logits and box deltas."""
        pooled = pooled.flatten(1)  # the same name, so that the unflattened tensor is freed
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return logits, deltas


def sort_detections(fields: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sort detections by descending score; slots without a detection come last and hold zeros.

    Args:
        fields: `scores` `(B, D)`, `valid` `(B, D)` bool and further tensors `(B, D, ...)`.
    """
    order = argsort_rows_descending(torch.where(fields["valid"], fields["scores"], INVALID))
    valid = fields["valid"].gather(1, order)
    result = {**fields, "valid": valid}
    for name in fields.keys() - {"valid"}:
        index = _align(order, fields[name]).expand(-1, -1, *fields[name].shape[2:])
        sorted_values = fields[name].gather(1, index)
        result[name] = sorted_values.masked_fill(~_align(valid, sorted_values), 0)
    return result


def _align(mask: Tensor, values: Tensor) -> Tensor:
    """Append axes of length 1 to a `(B, D)` tensor until it has as many as `values`."""
    return mask[(...,) + (None,) * (values.ndim - mask.ndim)]


def _pad_slots(values: Tensor, missing: int) -> Tensor:
    """Append `missing` slots of zeros to the second axis of `(B, D, ...)`."""
    if missing == 0:
        return values
    return torch.cat((values, torch.zeros_like(values[:, :1]).repeat_interleave(missing, 1)), dim=1)
