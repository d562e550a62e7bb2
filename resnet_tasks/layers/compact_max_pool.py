"""What max pooling keeps for its backward, in half the bytes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from resnet_tasks.layers.tracing import is_traced


def save_indices_as_int32() -> AbstractContextManager[object]:
    """Whole numbers that layers keep for their backward are kept in 32 bits instead of 64.

    Those of a stem's pooling say which cell of a map was the largest: as 64-bit numbers they take
    as much as half of that map in float32. For layers whose numbers are counts of cells: they must
    fit.
    """
    if is_traced() or not torch.is_grad_enabled():
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor


def _unpack(packed: Tensor) -> Tensor:
    return packed.to(torch.int64) if packed.dtype == torch.int32 else packed
