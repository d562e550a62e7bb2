"""Rules on traced heads, as exported graphs contain them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from resnet_tasks.export.write_graphs import OPSET
from resnet_tasks.heads.base import Head
from resnet_tasks.testing.head_under_test import HeadUnderTest
from resnet_tasks.testing.random_batches import random_features

TRACED = ((64, 96), ((61, 83), (64, 90)))
"""(H, W) of the traced batch, and (height, width) of its images."""
OTHERS = (((64, 96), ((64, 96), (9, 30))), ((128, 160), ((100, 150), (128, 129))))
"""Batches of other sizes, in the same form, on which the traced head must also be correct."""


class _Outputs(nn.Module):
    """Head as a function from tensors to tensors.

    Args:
        head: Head in eval mode.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head
        self.names: tuple[str, ...] = ()

    def forward(self, sizes: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """Compute the declared outputs from the input levels of the head."""
        features = dict(zip(self.head.in_levels, levels, strict=True))
        outputs = self.head.outputs(self.head(features), sizes)
        self.names = tuple(outputs)
        return tuple(outputs.values())


def check_traced_outputs(subject: HeadUnderTest) -> None:
    """Require that a traced head gives the same outputs for other values and sizes."""
    module = _Outputs(subject.build(training=False))
    with subject.report_failures("tracing of forward and outputs"), _trace_quietly():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            module, _make_inputs(subject, module.head, *TRACED), check_trace=False
        )
    for seed, (padded_size, sizes) in enumerate(OTHERS, start=1):
        inputs = _make_inputs(subject, module.head, padded_size, sizes, seed=seed)
        with torch.no_grad():
            expected = module(*inputs)
            with subject.report_failures(
                f"the head, traced on a batch of 64 x 96, on a batch of {padded_size[0]} x "
                f"{padded_size[1]}"
            ):
                got = traced(*inputs)
        for name, value, traced_value in zip(module.names, expected, got, strict=True):
            rule = (
                f"output {name!r} of the head, traced on a batch of 64 x 96, must follow the "
                "inputs: compute with tensors, and take sizes from `layers.tracing.get_size`"
            )
            subject.require(
                value.shape == traced_value.shape,
                f"{rule}; on a batch of {padded_size[0]} x {padded_size[1]} its shape is "
                f"{tuple(traced_value.shape)} instead of {tuple(value.shape)}",
            )
            subject.require(
                torch.allclose(value.float(), traced_value.float(), rtol=1e-3, atol=1e-2),
                f"{rule}; on a batch of {padded_size[0]} x {padded_size[1]} its values differ from "
                "those of the head",
            )


def check_onnx_operators(subject: HeadUnderTest) -> str | None:
    """Require that the traced head consists of operators that exist in ONNX."""
    if find_spec("onnx") is None:
        return "the package onnx is not installed"
    module = _Outputs(subject.build(training=False))
    with (
        TemporaryDirectory() as folder,
        subject.report_failures("export to ONNX"),
        _trace_quietly(),
    ):
        torch.onnx.export(
            module,
            _make_inputs(subject, module.head, *TRACED),
            str(Path(folder) / "head.onnx"),
            dynamo=False,
            opset_version=OPSET,
        )
    return None


def _make_inputs(
    subject: HeadUnderTest,
    head: Head,
    padded_size: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    seed: int = 0,
) -> tuple[Tensor, ...]:
    features = random_features(
        subject.specs, batch_size=len(sizes), padded_size=padded_size, seed=seed
    )
    levels = (features[level].detach() for level in head.in_levels)
    return (torch.tensor(sizes), *levels)


@contextmanager
def _trace_quietly() -> Iterator[None]:
    """Hide the warnings of tracing, and the graph that a failed export prints."""
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
