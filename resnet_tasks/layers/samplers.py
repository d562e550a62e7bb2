"""Random sampling of candidates for the loss, as a function of the image's seed.

Shape glossary: `M` candidates (anchors or proposals), `N` objects of one image, `I` ignore regions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_tasks.layers.matchers import NEGATIVE, IouMatcher


def make_generator(seed: int, stage: int) -> torch.Generator:
    """Create the random generator of one image in one stage of a head.

    Args:
        seed: Seed of the image, from `BatchView.seeds`.
        stage: Number of the stage, 0 or 1.
    """
    return torch.Generator().manual_seed((2 * seed + stage) % 2**63)


@dataclass(frozen=True)
class CandidateSampler:
    """Sampler of the candidates of an image for the loss of a stage.

    Attributes:
        matcher: Matcher that decides which candidates are positive and negative.
        size: Maximum number of candidates per image.
        positive_fraction: Maximum share of positives among them; negatives fill the remaining
            places.
    """

    matcher: IouMatcher
    size: int
    positive_fraction: float

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
        matches = self.matcher.match(candidates, boxes, ignored)
        positives = torch.where(matches >= 0)[0]
        negatives = torch.where(matches == NEGATIVE)[0]
        num_positives = min(len(positives), int(self.size * self.positive_fraction))
        num_negatives = min(len(negatives), self.size - num_positives)
        positives = _sample_indices(positives, num_positives, generator)
        return positives, _sample_indices(negatives, num_negatives, generator), matches[positives]


def _sample_indices(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sample `count` of `indices` without replacement; return them in order if all are taken."""
    if count == len(indices):
        return indices
    sampled = torch.randperm(len(indices), generator=generator)[:count]
    return indices[sampled.to(indices.device)]
