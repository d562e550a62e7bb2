"""Detection of graph tracing, in which layers skip memory savings that a trace cannot record."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Return whether `torch.compile`, `torch.export` or the JIT tracer is recording a graph."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]
