"""Matching of candidate boxes to objects, and sampling of the candidates for the loss.

Shape glossary: `M` candidates (anchors or proposals), `N` objects of one image.
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
"""Match of a candidate on the background."""
NEITHER = -2
"""Match of a candidate that is excluded from the loss."""
IGNORED_SHARE = 0.5
"""Share of a candidate's area inside an ignore region above which it cannot be negative."""
SMOOTH_L1_BETA = 1 / 9
"""Transition point of the smooth L1 loss in both stages, as in torchvision."""


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
class CandidateSampler:
    """Sampler of the candidates of an image for the loss of a stage.

    Attributes:
        foreground_iou: IoU with an object from which a candidate is positive.
        background_iou: IoU below which a candidate is negative.
        size: Maximum number of candidates per image.
        positive_fraction: Maximum share of positives among them; negatives fill the remaining
            places.
        best_is_positive: Whether the best candidates of an object are positive at any IoU (Faster
            R-CNN, section 3.1.2, case i).
    """

    foreground_iou: float
    background_iou: float
    size: int
    positive_fraction: float
    best_is_positive: bool

    def sample(
        self, candidates: Tensor, boxes: Tensor, ignored: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample the candidates of one image at random.

        Args:
            candidates: `(M, 4)` float32 xyxy.
            boxes: `(N, 4)` float32 xyxy, the objects.
            ignored: `(I, 4)` float32 xyxy, the ignore regions.
            generator: CPU generator, so that every device draws the same candidates.

        Returns:
            Indices of the positive candidates `(P,)`, indices of the negative candidates, and for
            each positive the index of its object `(P,)`.
        """
        matches = self.match(candidates, boxes, ignored)
        positives = torch.where(matches >= 0)[0]
        negatives = torch.where(matches == NEGATIVE)[0]
        num_positives = min(len(positives), int(self.size * self.positive_fraction))
        num_negatives = min(len(negatives), self.size - num_positives)
        positives = _sample_indices(positives, num_positives, generator)
        return positives, _sample_indices(negatives, num_negatives, generator), matches[positives]

    def match(self, candidates: Tensor, boxes: Tensor, ignored: Tensor) -> Tensor:
        """Match every candidate to an object.

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
    """Compute the largest share of each candidate's area inside one region, as `(M,)`."""
    low = torch.maximum(candidates[:, None, :2], regions[None, :, :2])
    high = torch.minimum(candidates[:, None, 2:], regions[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2)
    area = (candidates[:, 2:] - candidates[:, :2]).prod(dim=1)
    return (inside / area[:, None].clamp(min=1e-12)).amax(dim=1)


def _sample_indices(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sample `count` of `indices` without replacement; return them in order if all are taken."""
    if count == len(indices):
        return indices
    sampled = torch.randperm(len(indices), generator=generator)[:count]
    return indices[sampled.to(indices.device)]


def make_generator(seed: int, stage: int) -> torch.Generator:
    """Create the random generator of one image in one stage."""
    return torch.Generator().manual_seed((2 * seed + stage) % 2**63)


def compute_box_loss(
    deltas: Tensor, sources: Tensor, boxes: Tensor, coder: BoxCoder, kind: str
) -> Tensor:
    """Compute the summed loss between predicted and true boxes.

    Args:
        deltas: `(P, 4)` float32, predicted offsets relative to `sources`.
        sources: `(P, 4)` float32 xyxy, anchors or proposals.
        boxes: `(P, 4)` float32 xyxy, the true boxes.
        coder: Encoder and decoder of offsets.
        kind: `smooth_l1` on offsets (Girshick, Fast R-CNN, equation 3) or `giou` on boxes
            (Rezatofighi et al., CVPR 2019).

    Returns:
        Scalar sum over the boxes.
    """
    if kind == "giou":
        predicted = coder.decode_single(deltas, sources)
        giou: Tensor = generalized_box_iou_loss(predicted, boxes, reduction="sum")
        return giou
    target_deltas = coder.encode_single(boxes, sources)
    return F.smooth_l1_loss(deltas, target_deltas, beta=SMOOTH_L1_BETA, reduction="sum")
