"""Gradient checkpointing: a chain of blocks keeps few activations and recomputes the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_tasks.layers.norms import FrozenStatistics

BLOCK_TENSORS = 6
"""Approximate number of tensors that a residual block saves for its backward."""


def run_checkpointed(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run blocks one after another and keep only the input of each segment of blocks.

    Losses, gradients, statistics of norms and random draws equal those of a plain run. The size of
    a segment grows with the square root of the depth, which minimizes memory.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.

    Args:
        blocks: Modules from tensor to tensor; none may modify its input in place.
        x: Input of the first block.
    """
    size = max(1, round(math.sqrt(len(blocks) / BLOCK_TENSORS)))
    for start in range(0, len(blocks), size):
        segment = nn.Sequential(*blocks[start : start + size])
        x = checkpoint(segment, x, use_reentrant=False, context_fn=_Contexts(segment))
    return x


class _Contexts:
    """Contexts of a segment's two forward passes; only the first one updates norm statistics."""

    def __init__(self, segment: nn.Module) -> None:
        self.segment = segment

    def __call__(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), FrozenStatistics(self.segment)
