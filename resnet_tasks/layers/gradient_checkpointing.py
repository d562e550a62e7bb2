"""Gradient checkpointing: a chain keeps few activations and computes the others again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_tasks.layers.norms import FrozenStatistics

BLOCK_TENSORS = 6
"""Tensors that a residual block keeps for its backward, about; where segments trade best."""


def run_checkpointed(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Runs blocks one after another, keeping only what enters each segment of them.

    Losses, gradients, statistics of norms and random draws are those of a plain run. Segments grow
    with the square root of the depth, which keeps memory lowest.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.

    Args:
        blocks: Modules from tensor to tensor, none of which writes into its input.
        x: What the first of them takes.
    """
    size = max(1, round(math.sqrt(len(blocks) / BLOCK_TENSORS)))
    for start in range(0, len(blocks), size):
        segment = nn.Sequential(*blocks[start : start + size])
        x = checkpoint(segment, x, use_reentrant=False, context_fn=_Contexts(segment))
    return x


class _Contexts:
    """The first forward runs as ever; the second learns no statistics."""

    def __init__(self, segment: nn.Module) -> None:
        self.segment = segment

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), FrozenStatistics(self.segment)
