"""Devices and precisions of a model: resolution of names, autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from resnet_tasks.errors import RecipeError


def resolve_device(name: str) -> torch.device:
    """The device a recipe names; `auto` is CUDA, then MPS, then the CPU.

    Raises:
        RecipeError: If it is not there.
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
    """`fp32`, `bf16` or `fp16`; `auto` is bf16 where the hardware computes in it.

    Raises:
        RecipeError: If fp16 is asked for on a CPU.
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
    """Mixed precision for a forward; nothing for `fp32`."""
    if precision == "fp32":
        return nullcontext()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype)
