"""Conditions of a step: deterministic algorithms, and batch norms that do not remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import deterministic


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Deterministic algorithms for the duration of a run."""
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = deterministic
    fill = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(wanted or before)
    # Filling fresh memory guards against reading it uninitialised; it costs time in every operator.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use a batch's statistics but do not remember them."""
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
