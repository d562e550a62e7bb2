"""Conditions of a step: precision, deterministic algorithms, norms that do not remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import deterministic


@contextmanager
def use_deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Deterministic algorithms for the duration of a run."""
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(enabled or before)
    # Filling fresh memory guards against reading it uninitialized; it costs time in every operator.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


@contextmanager
def freeze_norm_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use a batch's statistics but do not remember them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


class BufferSnapshot:
    """Buffers of a model (statistics of norms) as they were, to put back."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Puts them back."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)


def create_accelerator(precision: str, device: torch.device, *, find_unused: bool) -> Any:
    """Mixed precision and the exchange of gradients among the `Processes` that were started.

    Args:
        precision: `fp32`, `bf16` or `fp16`.
        device: Where the model lies.
        find_unused: Whether parameters may be left without gradient in a step.
    """
    AcceleratorState._reset_state()
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[precision]
    return Accelerator(
        mixed_precision=mixed,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
    )
