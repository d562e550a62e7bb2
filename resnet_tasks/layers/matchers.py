"""Matching of candidate boxes and points to objects.

Shape glossary: `M` candidates (anchors, proposals or points), `N` objects of one image, `I` ignore
regions.
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


@dataclass(frozen=True)
class PointMatcher:
    """Matcher of points to the smallest object that they lie in, on the level of its size.

    A level of stride s learns objects whose farthest side is 4s to 8s away from the point; the
    finest level learns smaller ones too, and the coarsest level larger ones.

    Source: Tian et al., FCOS, ICCV 2019, section 3.2; center sampling: Tian et al., FCOS, TPAMI
    2022, section 3.

    Attributes:
        center_radius: Points must lie in the square around the center of the object whose half side
            is this number of strides; None: anywhere in the box.
    """

    center_radius: float | None = None

    def match(self, points: Tensor, strides: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
        """Match every point to an object.

        Points inside an ignore region are not negative, because they may show an object.

        Args:
            points: `(M, 2)` float32 (x, y), finest level first.
            strides: `(M,)` float32, stride of the level of each point.
            boxes: `(N, 4)` float32 xyxy, the objects.
            ignored: `(I, 4)` float32 xyxy, the ignore regions.

        Returns:
            `(M,)` int64: index into `boxes`, `NEGATIVE` or `NEITHER`.
        """
        matches = points.new_full((len(points),), NEGATIVE, dtype=torch.int64)
        if len(boxes) and len(points):
            fits = self._find_fits(points, strides, boxes)
            # As in torchvision, this rounds areas to 8 square pixels. Otherwise, the rounding of
            # the boxes would choose among overlapping objects of one size.
            preference = 1e8 - (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
            best, smallest = preference.where(fits, -torch.inf).max(dim=1)
            matches = torch.where(best > -torch.inf, smallest, matches)
        if len(ignored):
            covered = find_points_in_regions(points, ignored)
            matches = matches.masked_fill((matches == NEGATIVE) & covered, NEITHER)
        return matches

    def _find_fits(self, points: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
        """Return whether each point can learn each object, `(M, N)` bool."""
        before, after = points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]
        nearest = torch.minimum(before, after).amin(dim=2)
        farthest = torch.maximum(before, after).amax(dim=2)
        lower = torch.where(strides == strides[0], 0.0, 4 * strides)
        upper = torch.where(strides == strides[-1], torch.inf, 8 * strides)
        fits = (nearest > 0) & (farthest > lower[:, None]) & (farthest < upper[:, None])
        if self.center_radius is not None:
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2
            offsets = (points[:, None] - centers).abs().amax(dim=2)
            fits &= offsets < self.center_radius * strides[:, None]
        return fits


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
