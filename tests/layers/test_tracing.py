"""Recording a graph is noticed, by every way that exports or compiles; plain calls are not."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from resnet_tasks.layers.tracing import is_traced


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
