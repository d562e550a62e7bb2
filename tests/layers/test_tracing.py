"""Recording a graph is noticed, by every way that exports or compiles; plain calls are not."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from resnet_tasks.layers.tracing import (
    FILLER,
    argsort_rows_descending,
    floor_divide,
    get_size,
    is_traced,
    join_slots,
    select_top,
    stack_numbers,
)


class Noting(nn.Module):
    """Adds 1 where a graph is recorded."""

    def forward(self, values: Tensor) -> Tensor:
        return values + 1 if is_traced() else values


def test_a_plain_call_is_not_traced() -> None:
    assert not is_traced()
    assert Noting()(torch.zeros(1)) == 0


def test_tracing_and_export_are_noticed() -> None:
    given = (torch.zeros(1),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # exports to ONNX use it still
        traced = torch.jit.trace(Noting(), given, check_trace=False)  # type: ignore[no-untyped-call]
    assert traced(*given) == 1
    assert torch.export.export(Noting(), given).module()(*given) == 1
    assert torch.compile(Noting(), backend="eager")(*given) == 1
    assert not is_traced()


def test_the_largest_values_fill_a_fixed_number_of_slots() -> None:
    values = torch.tensor([[3.0, 9.0, 5.0], [1.0, 0.0, 2.0]])
    best, positions = select_top(values, 2)
    assert best.tolist() == [[9, 5], [2, 1]]
    assert positions.tolist() == [[1, 2], [2, 0]]
    best, positions = select_top(values, 5)
    assert best[:, :3].tolist() == [[9, 5, 3], [2, 1, 0]]
    assert (best[:, 3:] == torch.tensor(FILLER)).all()
    assert positions.max() == 2


def test_slots_that_are_always_empty_are_dropped() -> None:
    values = torch.arange(12.0).view(1, 2, 3, 2)
    assert join_slots(values, (2, 9))[0, :, 0].tolist() == [0, 2, 6, 8, 10]
    assert torch.equal(join_slots(values, (3, 3)), values.flatten(1, 2))


class Measuring(nn.Module):
    """Sizes, quotients and orders, which a trace must not store as constants."""

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        height, width = get_size(values, 0), get_size(values, 1)
        best, positions = select_top(values, 4)
        numbers = stack_numbers((height, width, floor_divide(width, height)), values.device)
        # Positions in empty slots are arbitrary.
        return numbers, best, positions * (best > FILLER), argsort_rows_descending(best)


def test_a_trace_follows_other_sizes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Measuring(), torch.rand(2, 7), check_trace=False)  # type: ignore[no-untyped-call]
    for size in ((3, 10), (1, 3)):
        values = torch.rand(size)
        got, expected = traced(values), Measuring()(values)
        assert got[0].tolist() == [*size, size[1] // size[0]]
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other)
    ties = torch.tensor([[1.0, 2.0, 1.0, 2.0]])
    assert argsort_rows_descending(ties).tolist() == [[1, 3, 0, 2]]
