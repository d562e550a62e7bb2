"""Dropout masks that are a function of the images' seeds alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class SeededDropout(nn.Module):
    """Dropout of single values inside a network, whose masks depend on the images' seeds alone.

    Without seeds, and in evaluation mode, it returns its input.

    Args:
        rate: Probability that a value is dropped, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._seeds: tuple[int, ...] | None = None

    @contextmanager
    def use_seeds(self, seeds: Sequence[int]) -> Iterator[None]:
        """Drop values inside the context; `seeds` has one seed per image."""
        self._seeds = tuple(seeds)
        try:
            yield
        finally:
            self._seeds = None

    def forward(self, values: Tensor) -> Tensor:
        """Map `(B, ...)` to the same shape; kept values grow by `1 / (1 - rate)`."""
        if self._seeds is None or not self.training or self.rate == 0:
            return values
        # Drawn on the CPU, so that every device gets the same mask.
        draws = [
            torch.rand(values.shape[1:], generator=torch.Generator().manual_seed(seed))
            for seed in self._seeds
        ]
        mask = (torch.stack(draws) >= self.rate).to(values) / (1 - self.rate)
        return values * mask


def sample_channel_mask(decoded: Tensor, dropout: float, seeds: Sequence[int]) -> Tensor:
    """Sample a dropout factor for every channel of every image.

    Args:
        decoded: `(B, channels, H, W)` feature map; the factors get its dtype and device.
        dropout: Probability that a channel is dropped, 0 to below 1.
        seeds: One seed per image.

    Returns:
        `(B, channels, 1, 1)`: 0 for dropped channels, else `1 / (1 - dropout)`, which keeps the
        mean.
    """
    channels = decoded.shape[1]
    # Drawn on the CPU, so that every device gets the same mask.
    draws = [torch.rand(channels, generator=torch.Generator().manual_seed(s)) for s in seeds]
    mask = (torch.stack(draws) >= dropout).to(decoded) / (1 - dropout)
    return mask[:, :, None, None]


def sample_unit_mask(
    counts: Sequence[int],
    generators: Sequence[torch.Generator],
    *,
    channels: int,
    dropout: float,
    like: Tensor,
) -> Tensor:
    """Sample a dropout factor for every unit of every row. Rows are ordered by image.

    Args:
        counts: Number of rows of each image.
        generators: One CPU generator per image; its state advances.
        channels: Number of units of a row.
        dropout: Probability that a unit is dropped, 0 to below 1.
        like: Tensor whose dtype and device the factors get.

    Returns:
        `(sum of counts, channels)`: 0 for dropped units, else `1 / (1 - dropout)`, which keeps the
        mean.
    """
    draws = [
        torch.rand(count, channels, generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    return (torch.cat(draws) >= dropout).to(like) / (1 - dropout)
