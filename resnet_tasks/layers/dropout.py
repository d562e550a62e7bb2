"""Dropout that is a function of the images' seeds and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def sample_channel_mask(decoded: Tensor, dropout: float, seeds: Sequence[int]) -> Tensor:
    """A factor for every channel of every image.

    Args:
        decoded: `(B, channels, H, W)`.
        dropout: Probability that a channel is dropped, 0..1.
        seeds: One per image.

    Returns:
        `(B, channels, 1, 1)`: 0 for dropped channels, else the factor that keeps the mean.
    """
    channels = decoded.shape[1]
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
    """A factor for every unit of every row, rows lying image by image.

    Args:
        counts: Rows of each image.
        generators: One per image, on the CPU; drawn from.
        channels: Units of a row.
        dropout: Probability that a unit is dropped, 0..1.
        like: Whose type and device the factors get.

    Returns:
        `(sum of counts, channels)`: 0 for dropped units, else the factor that keeps the mean.
    """
    draws = [
        torch.rand(count, channels, generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    ]
    return (torch.cat(draws) >= dropout).to(like) / (1 - dropout)
