"""CenterNet: objects as peaks of a heatmap (Zhou et al., Objects as Points, 2019), as an example.

The Gaussians of the heatmap and the loss of the boxes are those of TTFNet (Liu et al., AAAI 2020).
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.heads.base import Head, HeadOptions, register_head
from resnet_tasks.layers.anchors import generate_points
from resnet_tasks.layers.box_coders import MAX_LOG_SCALE
from resnet_tasks.layers.detection_losses import giou
from resnet_tasks.layers.matchers import extract_objects, find_points_in_regions
from resnet_tasks.layers.nms import select_detections
from resnet_tasks.layers.towers import ConvTower
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import BatchView


class CenterNetOptions(HeadOptions):
    """Options of the CenterNet head.

    Attributes:
        score_threshold: Lower limit of the score of a detection, exclusive.
        detections_per_image: Maximum number of detections per image.
    """

    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    detections_per_image: Annotated[int, Field(ge=1, le=10_000)] = 100


@register_head("centernet")
class CenterNet(Head):
    """Detector that predicts a center score and a box at each of the `M` cells of P2."""

    Options, task, in_levels = CenterNetOptions, "detection", ("P2",)  # of the shared pyramid

    def __init__(self, specs: Any, classes: Any, options: Any = None) -> None:
        super().__init__(specs, classes, options)
        channels, self.stride = self.specs["P2"].channels, self.specs["P2"].stride
        self.classify, self.regress = (
            nn.Sequential(ConvTower(channels, 1), nn.Conv2d(channels, num_outputs, 1))
            for num_outputs in (len(self.classes), 4)  # center and logarithm of the size of a box
        )
        nn.init.constant_(self.classify[-1].bias, -2.19)  # type: ignore[arg-type]  # score: 0.1

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predict center logits `(B, K, H, W)`, and a box `(B, M, 4)` at each point `(B, M, 2)`."""
        (points,) = generate_points([features["P2"]], [self.stride])
        values = self.regress(features["P2"]).float().flatten(2).transpose(1, 2)
        center = points + self.stride * values[..., :2]
        half = self.stride / 2 * values[..., 2:].clamp(max=MAX_LOG_SCALE).exp()
        boxes = torch.cat((center - half, center + half), dim=2)
        logits = self.classify(features["P2"]).float()
        return {"logits": logits, "boxes": boxes, "points": points.expand_as(boxes[..., :2])}

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the focal loss of the heatmap, and the loss of the boxes at the centers."""
        raw, focal, box, counts = self(features), [], [], []
        points, columns = raw["points"][0], raw["logits"].shape[3]
        for i, target in enumerate(view.targets):
            objects, labels, ignored = extract_objects(target)
            x, y = ((objects[:, :2] + objects[:, 2:]) / 2 / self.stride).long().unbind(dim=1)
            cells, logits = y * columns + x, raw["logits"][i].flatten(1)
            deviation = 0.54 / 6 * (objects[:, 2:] - objects[:, :2])  # TTFNet, equation 2
            steps = (points - points[cells][:, None]) / deviation[:, None]  # (objects, M, 2)
            peaks = (-0.5 * steps.square().sum(dim=2)).exp()
            rows = labels[:, None].expand_as(peaks)
            heat = torch.zeros_like(logits).scatter_reduce(0, rows, peaks, "amax")
            learned = (heat == 1) | ~find_points_in_regions(points, ignored)
            focal.append(compute_focal_losses(logits, heat)[learned].sum())
            box.append(giou(raw["boxes"][i][cells], objects))
            counts.append(len(objects))
        count = torch.tensor(sum(counts), dtype=torch.float32, device=points.device)
        return {  # images without objects train the background: they divide by at least 1
            "heatmap": LossTerm(torch.stack(focal).sum(), count, min_count=1.0),
            "box": LossTerm(torch.stack(box).sum(), count),
        }

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Select the peaks of the heatmap; nothing else is suppressed, as in the paper."""
        scores, options = raw["logits"].sigmoid(), self.options.model_dump()
        is_peak = F.max_pool2d(scores, 3, stride=1, padding=1) == scores
        scores = torch.where(is_peak, scores, 0.0).flatten(2).transpose(1, 2)
        candidates = self.options.detections_per_image
        return select_detections(
            raw["boxes"], scores, sizes, nms_iou=1.0, candidates=candidates, **options
        )


def compute_focal_losses(logits: Tensor, heat: Tensor) -> Tensor:
    """Compute the focal losses of cells (Law and Deng, CornerNet, ECCV 2018, equation 1)."""
    positive = (1 - logits.sigmoid()) ** 2 * F.logsigmoid(logits)
    negative = (1 - heat) ** 4 * logits.sigmoid() ** 2 * F.logsigmoid(-logits)
    return -torch.where(heat == 1, positive, negative)
