"""Detection of graph tracing, and tensor operations whose traced form follows the input's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def is_traced() -> bool:
    """Return whether `torch.compile`, `torch.export` or the JIT tracer is recording a graph."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def get_size(tensor: Tensor, axis: int) -> int | Tensor:
    """Return the length of an axis; inside the JIT tracer as an int64 scalar of the graph.

    A Python number would become a constant of the graph, which then accepts one size only.
    """
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        size: Tensor = torch._shape_as_tensor(tensor)[axis]
        return size
    return tensor.shape[axis]


def stack_numbers(numbers: Sequence[int | Tensor], device: torch.device) -> Tensor:
    """Stack numbers, such as the results of `get_size`, to an int64 tensor.

    Args:
        numbers: Python numbers or int64 scalars.
        device: Device of the result.
    """
    return torch.stack([torch.as_tensor(number) for number in numbers]).to(device)


def floor_divide(dividend: int | Tensor, divisor: int | Tensor) -> int | Tensor:
    """Divide two numbers that are not negative, such as results of `get_size`, and round down."""
    if isinstance(dividend, Tensor) or isinstance(divisor, Tensor):
        return torch.div(torch.as_tensor(dividend), torch.as_tensor(divisor), rounding_mode="trunc")
    return dividend // divisor


FILLER = -1e30
"""Value below every logit; finite, so that statistics over the logits are finite."""


def select_top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Select the largest values of every row, in a number of slots that does not depend on the row.

    Args:
        values: `(B, N)` float32; N may be smaller than `count`.
        count: Number of slots.

    Returns:
        Values `(B, count)`, descending, with `FILLER` in empty slots; and their positions
        `(B, count)` int64, inside 0..N-1 in empty slots too.
    """
    if is_traced():
        # `topk` needs at least `count` values, but the graph may get an input with fewer of them.
        empty = torch.full_like(values[:, :1], FILLER).expand(-1, count)
        best, positions = torch.cat((values, empty), dim=1).topk(count, dim=1)
        return best, torch.minimum(positions, torch.as_tensor(get_size(values, 1) - 1))
    best, positions = values.topk(min(count, values.shape[1]), dim=1)
    missing = (0, count - best.shape[1])
    return F.pad(best, missing, value=FILLER), F.pad(positions, missing)


def join_slots(values: Tensor, sizes: Sequence[int | Tensor]) -> Tensor:
    """Concatenate the slots of all levels; in eager mode without slots that are always empty.

    Args:
        values: `(B, L, T, ...)`, slots of L levels.
        sizes: Number of values of each level that its slots were filled from, see `select_top`.

    Returns:
        `(B, S, ...)`; S is L * T in a traced graph, whose shapes must not depend on the sizes.
    """
    if is_traced():
        return values.flatten(1, 2)
    return torch.cat([values[:, level, :size] for level, size in enumerate(sizes)], dim=1)


def argsort_rows_descending(scores: Tensor) -> Tensor:
    """Return the order of every row by descending score; equal scores keep their order.

    Args:
        scores: `(B, N)`; N must not depend on the input.

    Returns:
        `(B, N)` int64 positions.
    """
    if is_traced():
        # ONNX has no stable sort, but its TopK keeps the order of equal values.
        return scores.topk(int(scores.shape[1]), dim=1).indices
    return scores.argsort(dim=1, descending=True, stable=True)
