"""Max pooling that saves its indices for the backward in half the bytes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from resnet_tasks.layers.tracing import is_traced


def save_indices_as_int32() -> AbstractContextManager[object]:
    """Return a context in which layers save int64 tensors for their backward as int32.

    The max pooling of a stem saves the index of the largest cell of every window. As int64, these
    indices take up to half the memory of the input map in float32. Use the context only for layers
    whose saved integers are cell indices, which always fit into 32 bits.
    """
    if is_traced() or not torch.is_grad_enabled():
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor


def _unpack(packed: Tensor) -> Tensor:
    return packed.to(torch.int64) if packed.dtype == torch.int32 else packed
