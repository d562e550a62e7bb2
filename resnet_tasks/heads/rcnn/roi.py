"""Second stage: class and exact box of each proposal.

Source: Girshick, Fast R-CNN, ICCV 2015, on a feature pyramid (Lin et al., CVPR 2017, section 4.2).
Parameter names and the position of the background logit (first) are torchvision's.

Shape glossary: `B` images, `K` classes, `R` proposals per image, `Q` proposals of the batch,
`D` detections per image, `S` bins per axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from resnet_tasks.heads.rcnn.matching import (
    CandidateSampler,
    compute_box_loss,
    extract_objects,
    make_generator,
)
from resnet_tasks.layers.dropout import sample_unit_mask
from resnet_tasks.layers.roi_align import multilevel_roi_align
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

MIN_SIZE = 1e-2  # pixels, as in torchvision's RoIHeads
STAGE = 1
"""Number that separates the random draws of this stage from those of the first stage."""


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
        box_loss: str,
    ) -> None:
        super().__init__()
        self.box_head = box_head
        self.box_predictor = BoxPredictor(box_head.fc7.out_features, num_classes)
        self.strides = tuple(strides)
        self.output_size = output_size
        self.sampling_ratio = sampling_ratio
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))  # torchvision's RoIHeads
        self.sampling = sampling
        self.box_loss = box_loss

    def forward(
        self,
        levels: Sequence[Tensor],
        boxes: Tensor,
        images: Tensor,
        dropout_masks: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict class logits and box deltas of every proposal.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            boxes: `(Q, 4)` float32 xyxy, input pixels.
            images: `(Q,)` int64, index of the image of each box.
            dropout_masks: Dropout factors from `BoxHead.sample_dropout_masks`.

        Returns:
            Class logits `(Q, 1 + K)`, background first, and box deltas `(Q, 1 + K, 4)`; float32.
        """
        pooled = multilevel_roi_align(
            levels,
            self.strides,
            boxes,
            images,
            output_size=self.output_size,
            sampling_ratio=self.sampling_ratio,
        ).flatten(1)  # in one expression, so that the unflattened tensor is freed before the layers
        logits, deltas = self.box_predictor(self.box_head(pooled, dropout_masks))
        return logits, deltas

    def loss(
        self, levels: Sequence[Tensor], proposals: Tensor, valid: Tensor, view: BatchView
    ) -> dict[str, LossTerm]:
        """Compute `roi_classification` and `roi_box`, both per sampled proposal.

        Args:
            levels: `(B, channels, Hk, Wk)` each, finest first.
            proposals: `(B, R, 4)` float32 xyxy, input pixels.
            valid: `(B, R)` bool, False for padding.
            view: Batch with the labels of this head.
        """
        sampled_boxes, images, classes, target_boxes = [], [], [], []
        generators = [make_generator(seed, STAGE) for seed in view.seeds]
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
            target_boxes.append(boxes[matched_indices])
        rois, target_classes = torch.cat(sampled_boxes), torch.cat(classes)
        counts = [len(image_boxes) for image_boxes in sampled_boxes]
        dropout_masks = (
            self.box_head.sample_dropout_masks(counts, generators, levels[0])
            if self.training
            else None
        )
        logits, deltas = self(levels, rois, torch.cat(images), dropout_masks)
        classification = F.cross_entropy(logits, target_classes, reduction="sum")
        positive = torch.where(target_classes > 0)[0]
        box = compute_box_loss(
            deltas[positive, target_classes[positive]],
            rois[positive],
            torch.cat(target_boxes),
            self.coder,
            self.box_loss,
        )
        count = classification.new_tensor(float(len(rois)))
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
            limits: `(B, 2)` float32, (width, height) that boxes are clipped to.
            score_threshold: Lower limit of the score of a detection, exclusive.
            nms_iou: IoU above which two detections of one class are duplicates.
            detections_per_image: Number D of detections per image, padding included.

        Returns:
            `boxes` `(B, D, 4)` float32 xyxy in input pixels, `scores` `(B, D)` float32, `labels`
            `(B, D)` int64 and `valid` `(B, D)` bool.
        """
        images = valid.nonzero()[:, 0]
        rois = proposals[valid]
        logits, deltas = self(levels, rois, images)
        probs = logits.softmax(dim=1)[:, 1:]
        rows, labels = (probs > score_threshold).nonzero(as_tuple=True)
        scores, images = probs[rows, labels], images[rows]
        boxes = self.coder.decode_single(deltas[rows, labels + 1], rois[rows])
        boxes = torch.minimum(boxes.clamp(min=0), limits.repeat(1, 2)[images])
        large = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIZE).all(dim=1)
        kept_indices = torch.where(large)[0]
        # One NMS call for all images and classes: boxes of different groups never suppress others.
        groups = images * probs.shape[1] + labels
        kept_indices = kept_indices[
            batched_nms(boxes[kept_indices], scores[kept_indices], groups[kept_indices], nms_iou)
        ]
        return _pad(
            images[kept_indices],
            {
                "boxes": boxes[kept_indices],
                "scores": scores[kept_indices],
                "labels": labels[kept_indices],
            },
            len(proposals),
            detections_per_image,
        )


def _pad(
    images: Tensor, fields: dict[str, Tensor], num_images: int, size: int
) -> dict[str, Tensor]:
    """Pad the rows of all images, best first, to `(B, size, ...)` per field and add `valid`."""
    order = images.argsort(stable=True)
    images = images[order]
    counts = torch.bincount(images, minlength=num_images)
    starts = counts.cumsum(0) - counts
    ranks = torch.arange(len(order), device=order.device) - starts[images]
    fits = ranks < size
    order, place = order[fits], images[fits] * size + ranks[fits]
    padded = {}
    for name, values in fields.items():
        empty = values.new_zeros((num_images * size, *values.shape[1:]))
        filled = empty.index_copy(0, place, values[order])
        padded[name] = filled.view(num_images, size, *values.shape[1:])
    slots = torch.arange(size, device=counts.device)
    padded["valid"] = slots[None, :] < counts[:, None]
    return padded
