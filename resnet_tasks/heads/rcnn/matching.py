"""Which candidate boxes are positive, which negative, and which of them are learned from.

Shapes: `M` candidates (anchors or proposals), `N` objects of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou, generalized_box_iou_loss

from resnet_tasks.structures.targets import Target

NEGATIVE = -1
"""Match of a candidate that shows background."""
NEITHER = -2
"""Match of a candidate that is learned from neither way."""
IGNORED_SHARE = 0.5
"""A candidate with more than this share of its area inside an ignore region is no negative."""
SMOOTH_L1_BETA = 1 / 9
"""torchvision's, for both stages."""


def extract_objects(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes `(N, 4)` and labels `(N,)` of the objects to find, and the ignore regions `(I, 4)`."""
    assert target.boxes is not None, "a detection view holds boxes"
    assert target.labels is not None, "a detection view holds labels"
    boxes = target.boxes.float()
    if target.ignore is None:
        return boxes, target.labels, boxes[:0]
    keep = ~target.ignore
    return boxes[keep], target.labels[keep], boxes[target.ignore]


@dataclass(frozen=True)
class CandidateSampler:
    """Which candidates of an image a stage learns from.

    Attributes:
        foreground_iou: A candidate is positive from this overlap with an object on.
        background_iou: A candidate is negative below this overlap.
        size: Candidates per image, at most.
        positive_fraction: Share of positives among them, at most; negatives fill up.
        best_is_positive: Whether the best candidates of an object are positive whatever their
            overlap (Faster R-CNN, section 3.1.2, case i).
    """

    foreground_iou: float
    background_iou: float
    size: int
    positive_fraction: float
    best_is_positive: bool

    def sample(
        self, candidates: Tensor, boxes: Tensor, ignored: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A random choice of the candidates of one image.

        Args:
            candidates: `(M, 4)` float32 xyxy.
            boxes: `(N, 4)` float32 xyxy, the objects.
            ignored: `(I, 4)` float32 xyxy, the ignore regions.
            generator: On the CPU, so that every device draws the same.

        Returns:
            Candidate indices of the positives `(P,)` and of the negatives, and for each positive
            the index of its object `(P,)`.
        """
        matches = self.match(candidates, boxes, ignored)
        positives = torch.where(matches >= 0)[0]
        negatives = torch.where(matches == NEGATIVE)[0]
        num_positives = min(len(positives), int(self.size * self.positive_fraction))
        num_negatives = min(len(negatives), self.size - num_positives)
        positives = _sample_indices(positives, num_positives, generator)
        return positives, _sample_indices(negatives, num_negatives, generator), matches[positives]

    def match(self, candidates: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
        """The object that each candidate shows.

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
            covered = _compute_covered_fraction(candidates, ignored) > IGNORED_SHARE
            matches = matches.masked_fill((matches == NEGATIVE) & covered, NEITHER)
        return matches


def _compute_covered_fraction(candidates: Tensor, regions: Tensor) -> Tensor:
    """`(M,)`: the largest share of each candidate's area that lies inside one region."""
    low = torch.maximum(candidates[:, None, :2], regions[None, :, :2])
    high = torch.minimum(candidates[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area = (candidates[:, 2:] - candidates[:, :2]).prod(dim=1)
    return (inside / area[:, None].clamp(min=1e-12)).amax(dim=1)


def _sample_indices(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of `indices` without replacement; all of them in order where that is all."""
    if count == len(indices):
        return indices
    sampled = torch.randperm(len(indices), generator=generator)[:count]
    return indices[sampled.to(indices.device)]


def make_generator(seed: int, stage: int) -> torch.Generator:
    """The source of randomness of one image in one stage."""
    return torch.Generator().manual_seed((2 * seed + stage) % 2**63)


def compute_box_loss(
    deltas: Tensor, sources: Tensor, boxes: Tensor, coder: BoxCoder, kind: str
) -> Tensor:
    """Summed distance between predicted and true boxes.

    Args:
        deltas: `(P, 4)` float32, predicted offsets of `sources`.
        sources: `(P, 4)` float32 xyxy, anchors or proposals.
        boxes: `(P, 4)` float32 xyxy, the true boxes.
        coder: Offsets <-> boxes.
        kind: `smooth_l1` on offsets (Girshick, Fast R-CNN, equation 3) or `giou` on boxes
            (Rezatofighi et al., CVPR 2019).

    Returns:
        Scalar.
    """
    if kind == "giou":
        predicted = coder.decode_single(deltas, sources)
        giou: Tensor = generalized_box_iou_loss(predicted, boxes, reduction="sum")
        return giou
    target_deltas = coder.encode_single(boxes, sources)
    return F.smooth_l1_loss(deltas, target_deltas, beta=SMOOTH_L1_BETA, reduction="sum")
