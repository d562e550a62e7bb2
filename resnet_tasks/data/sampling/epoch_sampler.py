"""Order, repeats and scales of the samples of an epoch, as functions of (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.data.sampling.sample_keys import SampleKey, derive_sample_seed


@dataclass(frozen=True)
class EpochSampler:
    """Batch sampler of training epochs, without state.

    Attributes:
        repeats: `(N,)` float64 average number of times each sample occurs in an epoch, above 0;
            None: once. See `sample_epoch_order`.
        scales: Scales relative to the prepared size, one drawn per batch, so that padded sizes stay
            few. Without scales, all batches have the prepared size.
    """

    repeats: NDArray[np.float64] | None = None
    scales: tuple[float, ...] = ()

    def make_batches(
        self, length: int, batch_size: int, *, seed: int, epoch: int
    ) -> list[list[SampleKey]]:
        """Return the keys of the batches of one epoch.

        They depend neither on the number of processes, which share each batch (`get_shard`), nor on
        the step at which a run was resumed.

        Args:
            length: Number of samples of the dataset.
            batch_size: Number of samples of a batch; the last batch may be smaller.
            seed: Seed of the run.
            epoch: Epoch, from 0.
        """
        order = sample_epoch_order(length, seed=seed, epoch=epoch, repeats=self.repeats)
        visits = count_earlier_visits(order)
        batches = []
        for number, start in enumerate(range(0, len(order), batch_size)):
            scale = self._draw_scale(seed, epoch, number)
            batch = range(start, min(start + batch_size, len(order)))
            batches.append([(epoch, order[i], scale, visits[i]) for i in batch])
        return batches

    def select(self, positions: Sequence[int]) -> EpochSampler:
        """Return the sampler of a subset of the samples."""
        if self.repeats is None:
            return self
        return replace(self, repeats=self.repeats[np.asarray(positions, np.int64)])

    def _draw_scale(self, seed: int, epoch: int, batch_number: int) -> float:
        if not self.scales:
            return 1.0
        draw = derive_sample_seed(seed, epoch, f"scale of batch {batch_number}")
        return self.scales[draw % len(self.scales)]


def sample_epoch_order(
    length: int, *, seed: int, epoch: int, repeats: NDArray[np.float64] | None = None
) -> list[int]:
    """Return the order in which an epoch visits the samples; it depends only on seed and epoch.

    Args:
        length: Number of samples, whose positions are 0..length-1.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        repeats: `(length,)` average number of times each position occurs per epoch, above 0. The
            number in a single epoch is rounded down or up. Every epoch has as many visits as the
            rounded sum of the repeats. None: each position occurs once.
    """
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    order = torch.randperm(length, generator=generator)
    if repeats is None:
        return order.tolist()
    sampled = _sample_systematically(
        order.numpy(), repeats, float(torch.rand((), generator=generator))
    )
    shuffled: list[int] = sampled[
        torch.randperm(len(sampled), generator=generator).numpy()
    ].tolist()
    return shuffled


def _sample_systematically(
    order: NDArray[np.int64], repeats: NDArray[np.float64], start: float
) -> NDArray[np.int64]:
    """Sample positions at unit steps along their cumulative repeats (systematic sampling).

    Equal repeats are adjacent, so that all positions with the same repeat together get their
    expected number of visits to within one.
    """
    order = order[np.argsort(repeats[order], kind="stable")]
    ends = np.cumsum(repeats[order])
    total = float(ends[-1])
    count, part = max(1, round(total)), total % 1
    # A random start may yield one step more or less. Restricting the range of the start gives
    # every epoch the same length.
    if total >= 1 and part:
        start = start * part if count > total else part + start * (1 - part)
    elif part:
        start *= total
    points = start + np.arange(count)
    return order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]


def count_earlier_visits(order: Sequence[int]) -> list[int]:
    """Return how often each position of an epoch's order has occurred before in it."""
    visit_counts: Counter[int] = Counter()
    visits = []
    for position in order:
        visits.append(visit_counts[position])
        visit_counts[position] += 1
    return visits
