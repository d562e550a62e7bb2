"""Operators of a training step by time, precision and part, as torch's profiler sees them."""

from __future__ import annotations

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
"""The profiler's names of types of tensors -> ours."""
UPDATES = frozenset({AVERAGING, CLIPPING, OPTIMIZER, OTHER})
"""Parts that work on parameters and their gradients, which are fp32 in mixed precision too."""
LEAST_SHARE = 0.01
"""Of the operators' time; fp32 operators below it are no island worth a word."""


@dataclass(frozen=True)
class OperatorStats:
    """One operator with inputs of one type, in one part of the step.

    Attributes:
        name: torch's.
        dtype: `fp32`, `bf16`, `fp16` or `fp64`: the type of its first tensor of floats; `A to B`
            where it copies into another type; empty where it has none.
        part: Of the step.
        calls: Per step.
        seconds: Per step, without operators that it calls; of a GPU its kernels' time.
        share: Of the time of all operators.
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
    """The operators of some steps, the most expensive first.

    Args:
        step: Takes one; its parts are announced by a `timeline.Recorder`.
        steps: How many to take.
        device: Where the model lies.
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
    """Operators of the profiler's events, summed by name, type and part.

    Args:
        events: `torch.autograd.profiler_util.FunctionEvent`s.
        steps: That they are of.
        is_cuda: Count the time of kernels, not that of the calls.
    """
    cpu_events = [event for event in events if event.device_type == DeviceType.CPU]
    parts = sorted(
        (event.time_range.start, event.time_range.end, event.name.removeprefix(PREFIX))
        for event in cpu_events
        if event.name.startswith(PREFIX)
    )
    costs_by_key: dict[tuple[str, str, str], list[float]] = {}
    operators = sorted(filter(_is_operator, cpu_events), key=lambda event: event.time_range.start)
    open_parts: list[tuple[float, float, str]] = []
    next_part = 0
    for operator in operators:
        start = operator.time_range.start
        while next_part < len(parts) and parts[next_part][0] <= start:
            open_parts.append(parts[next_part])
            next_part += 1
        while open_parts and open_parts[-1][1] < start:
            open_parts.pop()
        key = (operator.name, _get_dtype(operator), open_parts[-1][2] if open_parts else OTHER)
        microseconds = operator.self_device_time_total if is_cuda else operator.self_cpu_time_total
        sums = costs_by_key.setdefault(key, [0.0, 0.0])
        sums[0] += 1
        sums[1] += microseconds / 1e6  # microseconds
    total = sum(seconds for _, seconds in costs_by_key.values()) or 1.0
    stats = [
        OperatorStats(*key, calls / steps, seconds / steps, seconds / total)
        for key, (calls, seconds) in costs_by_key.items()
    ]
    return sorted(stats, key=lambda stat: -stat.seconds)


def find_fp32_islands(operators: Sequence[OperatorStats], precision: str) -> list[OperatorStats]:
    """Expensive operators in fp32 although the precision is a lower one; most expensive first.

    What works on parameters (optimizer, averages, clipping) is fp32 on purpose.
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
    """Operators have a name space; nodes of the graph only call them."""
    return "::" in event.name and not event.name.startswith(("autograd::", PREFIX))


def _get_dtype(event: Any) -> str:
    # Not known to the profiler of every torch.
    input_dtypes = [
        FLOATS[dtype] for dtype in getattr(event, "input_dtypes", ()) or () if dtype in FLOATS
    ]
    if not input_dtypes:
        return ""
    if event.name == "aten::copy_" and len(input_dtypes) > 1 and input_dtypes[0] != input_dtypes[1]:
        return f"{input_dtypes[1]} to {input_dtypes[0]}"  # the first one is written to
    return input_dtypes[0]
