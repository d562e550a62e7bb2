"""Sampled candidates: numbers by hand, and draws that depend on the seed alone."""

from __future__ import annotations

import torch

from resnet_tasks.layers.matchers import IouMatcher
from resnet_tasks.layers.samplers import CandidateSampler, make_generator

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0]])
FAR = torch.tensor([[200.0, 200.0, 210.0, 210.0]])
CANDIDATES = torch.cat((BOXES[1:].repeat(6, 1), FAR.repeat(30, 1), BOXES[:1].repeat(4, 1)))


def sample(size: int, fraction: float, seed: int = 0) -> tuple[list[int], list[int], list[int]]:
    sampler = CandidateSampler(IouMatcher(0.5, 0.5), size, fraction)
    drawn = sampler.sample(CANDIDATES, BOXES, BOXES[:0], make_generator(seed, 0))
    positives, negatives, objects = (values.tolist() for values in drawn)
    return positives, negatives, objects


def test_numbers_by_hand() -> None:
    positives, negatives, objects = sample(16, 0.25)
    assert (len(positives), len(negatives)) == (4, 12)
    assert len({*positives, *negatives}) == 16
    assert objects == [1 if index < 6 else 0 for index in positives]
    assert all(6 <= index < 36 for index in negatives)
    # Too few positives: negatives fill the places. Everything fits: in order, nothing is drawn.
    assert (len(sample(32, 0.5)[0]), len(sample(32, 0.5)[1])) == (10, 22)
    assert sample(100, 0.5)[0] == [*range(6), *range(36, 40)]
    assert sample(100, 0.5)[1] == list(range(6, 36))


def test_draws_follow_the_seed() -> None:
    torch.manual_seed(1)
    first = sample(16, 0.25, seed=7)
    torch.manual_seed(2)
    assert sample(16, 0.25, seed=7) == first
    assert sample(16, 0.25, seed=8) != first
    numbers = [torch.rand(1, generator=make_generator(5, stage)).item() for stage in (0, 1)]
    assert numbers[0] != numbers[1]
