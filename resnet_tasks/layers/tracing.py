"""Whether a graph is being recorded, where layers do without what a recording cannot hold."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether `torch.compile`, `torch.export` or the tracer of exports looks on."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
