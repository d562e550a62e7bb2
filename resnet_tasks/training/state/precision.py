"""Conditions of a training step: precision, deterministic algorithms and batch-norm statistics."""

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

from resnet_tasks.errors import RunError
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.samples import Batch


@contextmanager
def use_deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Use deterministic algorithms inside the block.

    Args:
        enabled: Whether to enable them; if False, the setting of the caller remains.
    """
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(enabled or before)
    # In deterministic mode torch fills new tensors with NaN to expose reads of uninitialized
    # memory, which costs time in every operator.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


@contextmanager
def freeze_norm_statistics(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms unchanged inside the block.

    The norms still normalize with the statistics of the batch.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the weight of the batch in the running statistics
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum


@contextmanager
def explain_single_values(batch: Batch) -> Iterator[None]:
    """Explain the error of a batch norm that gets a single value per channel inside the block.

    Args:
        batch: Batch of the forward pass inside the block.

    Raises:
        RunError: If a batch norm gets a single value per channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunError(
            f"a batch of {Count(len(batch)):image} of {batch.padded_size} pixels leaves a batch "
            "norm a single value per channel, from which it cannot compute statistics; use "
            "larger images (data.resize), a training.batch_size that divides the data "
            "without a remainder of 1, or backbone.norm=group"
        ) from None


class BufferSnapshot:
    """Copy of a model's buffers (batch-norm statistics), to restore them after a step.

    Args:
        model: Model whose buffers are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._buffers = list(model.buffers())
        self._copies = [buffer.clone() for buffer in self._buffers]

    def restore(self) -> None:
        """Restore the buffers of the model in place."""
        for buffer, copy in zip(self._buffers, self._copies, strict=True):
            buffer.copy_(copy)


def create_accelerator(precision: str, device: torch.device, *, find_unused: bool) -> Any:
    """Create the accelerator for mixed precision and gradient exchange in the process group.

    Args:
        precision: `fp32`, `bf16` or `fp16`.
        device: Device of the model.
        find_unused: Whether parameters may get no gradient in a step.
    """
    # accelerate keeps the precision of the first accelerator for the lifetime of the process.
    AcceleratorState._reset_state()
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[precision]
    return Accelerator(
        mixed_precision=mixed,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
    )
