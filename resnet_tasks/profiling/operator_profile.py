"""Operators of a training step by time, precision and part, measured by torch's profiler."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity

from resnet_tasks.profiling.timeline import AVERAGING, CLIPPING, OPTIMIZER, OTHER, PREFIX
from resnet_tasks.runtime.quiet_profiler import create_quiet_profiler

FLOATS = {
    "float": "fp32",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "double": "fp64",
}
"""dtype name of torch's profiler -> name in this package."""
UPDATES = frozenset({AVERAGING, CLIPPING, OPTIMIZER, OTHER})
"""Parts that work on parameters and gradients, which are fp32 in mixed precision as well."""
LEAST_SHARE = 0.01
"""Minimum share of the total operator time of an fp32 operator that is reported."""


@dataclass(frozen=True)
class OperatorStats:
    """Statistics of one operator with inputs of one dtype, in one part of the step.

    Attributes:
        name: Name of the operator in torch, such as `aten::convolution`.
        dtype: `fp32`, `bf16`, `fp16` or `fp64`: dtype of the first floating-point input. `A to B`
            for copies that change the dtype; empty without floating-point inputs.
        part: Part of the step, a label of `timeline`.
        calls: Mean number of calls per step.
        seconds: Mean seconds per step, without the operators that it calls; on a GPU the time of
            its kernels.
        share: Share of the time of all operators, 0..1.
    """

    name: str
    dtype: str
    part: str
    calls: float
    seconds: float
    share: float


def profile_operators(
    step: Callable[[], object], steps: int, device: torch.device
) -> list[OperatorStats]:
    """Profile the operators of some steps.

    Args:
        step: Function that takes one step; a `Timeline` marks its parts.
        steps: Number of steps to take.
        device: Device of the model.

    Returns:
        Statistics by operator, dtype and part, most expensive first.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with create_quiet_profiler(activities=activities, record_shapes=True) as profiler:
        for _ in range(steps):
            step()
    return aggregate_events(profiler.events() or (), steps, is_cuda=device.type == "cuda")


def aggregate_events(
    events: Iterable[Any], steps: int, *, is_cuda: bool = False
) -> list[OperatorStats]:
    """Sum the profiler's events by operator, dtype and part.

    Args:
        events: `torch.autograd.profiler_util.FunctionEvent`s.
        steps: Number of steps that the events cover.
        is_cuda: Whether to count the time of GPU kernels instead of the time on the CPU.

    Returns:
        Statistics by operator, dtype and part, most expensive first.
    """
    cpu_events = [event for event in events if event.device_type == DeviceType.CPU]
    events_by_start = sorted(cpu_events, key=lambda event: event.time_range.start)
    operators = list(filter(_is_operator, events_by_start))
    starts = [operator.time_range.start for operator in operators]
    parts = [OTHER] * len(operators)
    # Matched by time and not by thread (`cpu_parent`): on a GPU, the backward pass runs in a
    # separate thread.
    for event in events_by_start:
        if event.name.startswith(PREFIX):
            first = bisect_left(starts, event.time_range.start)
            last = bisect_right(starts, event.time_range.end)
            # Inner parts start later and overwrite outer ones.
            parts[first:last] = [event.name.removeprefix(PREFIX)] * (last - first)
    costs_by_key: dict[tuple[str, str, str], list[float]] = {}
    for operator, part in zip(operators, parts, strict=True):
        key = (operator.name, _get_dtype(operator), part)
        microseconds = operator.self_device_time_total if is_cuda else operator.self_cpu_time_total
        sums = costs_by_key.setdefault(key, [0.0, 0.0])
        sums[0] += 1
        sums[1] += microseconds / 1e6
    total = sum(seconds for _, seconds in costs_by_key.values()) or 1.0
    stats = [
        OperatorStats(*key, calls / steps, seconds / steps, seconds / total)
        for key, (calls, seconds) in costs_by_key.items()
    ]
    return sorted(stats, key=lambda stat: -stat.seconds)


def find_fp32_islands(operators: Sequence[OperatorStats], precision: str) -> list[OperatorStats]:
    """Find expensive operators that run in fp32 although the precision is lower.

    Operators on parameters (optimizer, averaged weights, clipping) are fp32 on purpose and
    therefore excluded.

    Args:
        operators: Statistics of the operators, most expensive first.
        precision: Precision of the training: `fp32`, `bf16` or `fp16`.

    Returns:
        Statistics of the fp32 operators, in the same order; empty for `fp32`.
    """
    if precision == "fp32":
        return []
    return [
        operator
        for operator in operators
        if operator.dtype == "fp32"
        and operator.part not in UPDATES
        and operator.share >= LEAST_SHARE
    ]


def _is_operator(event: Any) -> bool:
    """Return whether an event is an operator; autograd nodes and step parts only contain them."""
    return "::" in event.name and not event.name.startswith(("autograd::", PREFIX))


def _get_dtype(event: Any) -> str:
    # Some versions of torch have no `input_dtypes`.
    input_dtypes = [
        FLOATS[dtype] for dtype in getattr(event, "input_dtypes", ()) or () if dtype in FLOATS
    ]
    if not input_dtypes:
        return ""
    if event.name == "aten::copy_" and len(input_dtypes) > 1 and input_dtypes[0] != input_dtypes[1]:
        return f"{input_dtypes[1]} to {input_dtypes[0]}"  # aten::copy_(destination, source)
    return input_dtypes[0]
