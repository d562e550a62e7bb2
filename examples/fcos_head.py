"""FCOS: an anchor-free detector (Tian et al., ICCV 2019), as an example of a head."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.base import Head, HeadOptions, register_head
from resnet_tasks.layers.anchors import generate_points
from resnet_tasks.layers.box_coders import MAX_LOG_SCALE, PointCoder
from resnet_tasks.layers.detection_losses import giou, sigmoid_focal
from resnet_tasks.layers.matchers import extract_objects, find_points_in_regions
from resnet_tasks.layers.nms import select_detections
from resnet_tasks.layers.towers import ConvTower
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView

LEVELS = ("P3", "P4", "P5", "P6", "P7")


class FCOSOptions(HeadOptions):
    """Options of `select_detections`; it applies NMS to the best `candidates` of each image."""

    score_threshold: float = 0.05
    nms_iou: float = 0.6
    candidates: int = 1000
    detections_per_image: int = 100


@register_head("fcos_example")
class FCOS(Head):
    """Detector that predicts class, box and centerness at each of the `M` points of P3..P7."""

    Options, task, in_levels = FCOSOptions, "detection", LEVELS  # of the model's shared pyramid

    def __init__(self, specs: Any, classes: Any, options: Any = None) -> None:
        super().__init__(specs, classes, options)
        self.strides = [self.specs[level].stride for level in LEVELS]
        channels = self.specs["P3"].channels
        self.class_tower, self.box_tower = ConvTower(channels), ConvTower(channels)
        self.classify = nn.Conv2d(channels, len(self.classes), 3, padding=1)
        self.regress = nn.Conv2d(channels, 5, 3, padding=1)  # four distances and the centerness
        self.scales = nn.Parameter(torch.ones(len(LEVELS)))
        nn.init.constant_(self.classify.bias, -4.6)  # type: ignore[arg-type]  # prior: 0.01

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predict logits `(B, M, K)`, boxes `(B, M, 4)` and centerness `(B, M)` at all points."""
        parts, levels = [], [features[level] for level in LEVELS]
        for i, points in enumerate(generate_points(levels, self.strides)):
            logits = self.classify(self.class_tower(levels[i])).float().flatten(2).transpose(1, 2)
            values = self.regress(self.box_tower(levels[i])).float().flatten(2).transpose(1, 2)
            distances = (self.scales[i] * values[..., :4]).clamp(max=MAX_LOG_SCALE).exp()
            boxes = PointCoder(self.strides[i]).decode(distances, points)
            locations = F.pad(points, (0, 1), value=self.strides[i]).expand_as(values[..., :3])
            parts.append((logits, boxes, values[..., 4], locations))
        names = ("logits", "boxes", "centerness", "points")
        return {name: torch.cat([part[i] for part in parts], 1) for i, name in enumerate(names)}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the losses of classes, boxes and centerness."""
        raw, positive, learned, truth = self(features), [], [], []
        points, strides = raw["points"][0].split((2, 1), dim=1)
        classes = torch.zeros_like(raw["logits"])
        for i, target in enumerate(view.targets):
            objects, labels, ignored = extract_objects(target)
            distances = PointCoder().encode(objects, points[:, None])  # (M, objects, 4)
            size = (distances.amax(dim=2) / 8).clamp(self.strides[0], self.strides[-1])
            fits = (size > strides / 2) & (size <= strides) & (distances.amin(dim=2) > 0)
            areas = (objects[:, 2:] - objects[:, :2]).prod(dim=1).where(fits, torch.inf)
            # Each point learns the smallest of its objects. The last column is the background.
            matches = F.pad(areas, (0, 1), value=1e30).argmin(dim=1)
            positive.append(matches < len(objects))
            learned.append(positive[i] | ~find_points_in_regions(points, ignored))
            matches = matches[positive[i]]
            classes[i][positive[i], labels[matches]] = 1.0
            truth.append(objects[matches])
        at, used, boxes = torch.stack(positive), torch.stack(learned), torch.cat(truth)
        sides = PointCoder().encode(boxes, raw["points"][at][:, :2]).view(-1, 2, 2)
        centerness = (sides.amin(dim=1) / sides.amax(dim=1)).prod(dim=1).sqrt()
        center = F.binary_cross_entropy_with_logits(
            raw["centerness"][at], centerness, reduction="sum"
        )
        # Every image adds 1 to the count, so that the loss of images without objects, which have
        # no positive points, is defined and trains the background.
        classification = sigmoid_focal(raw["logits"][used], classes[used])
        return {
            "classification": LossTerm(classification, at.sum() + len(view)),
            "box": LossTerm(giou(raw["boxes"][at], boxes), at.sum()),
            "centerness": LossTerm(center, at.sum()),
        }

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Select the best boxes of every image by non-maximum suppression inside each class."""
        scores = (raw["logits"].sigmoid() * raw["centerness"].sigmoid()[..., None]).sqrt()
        return select_detections(raw["boxes"], scores, sizes, **self.options.model_dump())
