"""Matching of candidate boxes to objects.

Shape glossary: `M` candidates (anchors or proposals), `N` objects of one image, `I` ignore regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from resnet_tasks.structures.targets import Target

NEGATIVE = -1
"""Match of a candidate on the background."""
NEITHER = -2
"""Match of a candidate that is excluded from the loss."""
IGNORED_SHARE = 0.5
"""Share of a candidate's area inside an ignore region above which it cannot be negative."""


def extract_objects(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes `(N, 4)` and labels `(N,)` of the objects, and the ignore regions `(I, 4)`."""
    assert target.boxes is not None, "a detection view holds boxes"
    assert target.labels is not None, "a detection view holds labels"
    boxes = target.boxes.float()
    if target.ignore is None:
        return boxes, target.labels, boxes[:0]
    keep = ~target.ignore
    return boxes[keep], target.labels[keep], boxes[target.ignore]


@dataclass(frozen=True)
class IouMatcher:
    """Matcher of candidates to the objects that they overlap most.

    Attributes:
        foreground_iou: IoU with an object from which a candidate is positive.
        background_iou: IoU below which a candidate is negative.
        best_is_positive: Whether the best candidates of an object are positive at any IoU (Faster
            R-CNN, section 3.1.2, case i).
    """

    foreground_iou: float
    background_iou: float
    best_is_positive: bool = False

    def match(self, candidates: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
        """Match every candidate to an object.

        Candidates inside an ignore region are not negative, because they may show an object.

        Args:
            candidates: `(M, 4)` float32 xyxy.
            boxes: `(N, 4)` float32 xyxy, the objects.
            ignored: `(I, 4)` float32 xyxy, the ignore regions.

        Returns:
            `(M,)` int64: index into `boxes`, `NEGATIVE` or `NEITHER`.
        """
        if len(boxes) and len(candidates):
            matcher = Matcher(self.foreground_iou, self.background_iou, self.best_is_positive)
            matches: Tensor = matcher(box_iou(boxes, candidates))
        else:
            matches = candidates.new_full((len(candidates),), NEGATIVE, dtype=torch.int64)
        if len(ignored):
            covered = compute_covered_fraction(candidates, ignored) > IGNORED_SHARE
            matches = matches.masked_fill((matches == NEGATIVE) & covered, NEITHER)
        return matches


def compute_covered_fraction(candidates: Tensor, regions: Tensor) -> Tensor:
    """Compute the largest share of each candidate's area inside one region, as `(M,)`.

    Args:
        candidates: `(M, 4)` float32 xyxy.
        regions: `(I, 4)` float32 xyxy, at least one.
    """
    low = torch.maximum(candidates[:, None, :2], regions[None, :, :2])
    high = torch.minimum(candidates[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area = (candidates[:, 2:] - candidates[:, :2]).prod(dim=1)
    return (inside / area[:, None].clamp(min=1e-12)).amax(dim=1)


def find_points_in_regions(points: Tensor, regions: Tensor) -> Tensor:
    """Return whether each point lies inside any region, `(M,)` bool.

    Args:
        points: `(M, 2)` float32 (x, y).
        regions: `(I, 4)` float32 xyxy.
    """
    after = (points[:, None] >= regions[None, :, :2]).all(dim=2)
    before = (points[:, None] <= regions[None, :, 2:]).all(dim=2)
    return (after & before).any(dim=1)
