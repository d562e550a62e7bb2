"""Device and precision of a model: resolution of their names, and autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from resnet_tasks.errors import RecipeError


def resolve_device(name: str) -> torch.device:
    """Return the device that a recipe names; `auto` selects CUDA, else MPS, else the CPU.

    Raises:
        RecipeError: If the name is unknown, or there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(
            f"training.device is {name!r}; allowed: auto, cpu, cuda, cuda:N, mps"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            f"training.device is {name!r}, but there is no CUDA device; use auto or cpu"
        )
    return device


def resolve_precision(precision: str, device: torch.device) -> str:
    """Resolve a precision to `fp32`, `bf16` or `fp16`.

    Args:
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where the hardware supports it natively,
            else fp32.
        device: Device of the model.

    Raises:
        RecipeError: If fp16 is requested on a CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise RecipeError(
            "training.precision is fp16, which a CPU emulates slowly; use auto, bf16 or fp32"
        )
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if has_units else "fp32"
    return "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the autocast context for a forward pass; for `fp32` a context that does nothing."""
    if precision == "fp32":
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)
