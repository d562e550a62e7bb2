"""Operators of a training step by time, precision and part, as torch's profiler sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity

from resnet_tasks.training.quiet_profiler import quiet_profile
from resnet_tasks.training.timeline import AVERAGING, CLIPPING, OPTIMIZER, PREFIX, REST

FLOATS = {
    "float": "fp32",
    "c10::BFloat16": "bf16",
    "c10::Half": "fp16",
    "double": "fp64",
}
"""The profiler's names of types of tensors -> ours."""
UPDATES = frozenset({AVERAGING, CLIPPING, OPTIMIZER, REST})
"""Parts that work on parameters and their gradients, which are fp32 in mixed precision too."""
LEAST_SHARE = 0.01
"""Of the operators' time; fp32 operators below it are no island worth a word."""


@dataclass(frozen=True)
class Operator:
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
) -> list[Operator]:
    """The operators of some steps, the most expensive first.

    Args:
        step: Takes one; its parts are announced by a `timeline.Recorder`.
        steps: How many to take.
        device: Where the model lies.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with quiet_profile(activities=activities, record_shapes=True) as watched:
        for _ in range(steps):
            step()
    return counted(watched.events() or (), steps, is_cuda=device.type == "cuda")


def counted(events: Iterable[Any], steps: int, *, is_cuda: bool = False) -> list[Operator]:
    """Operators of the profiler's events, summed by name, type and part.

    Args:
        events: `torch.autograd.profiler_util.FunctionEvent`s.
        steps: That they are of.
        is_cuda: Count the time of kernels, not that of the calls.
    """
    listed = [each for each in events if each.device_type == DeviceType.CPU]
    parts = sorted(
        (each.time_range.start, each.time_range.end, each.name.removeprefix(PREFIX))
        for each in listed
        if each.name.startswith(PREFIX)
    )
    found: dict[tuple[str, str, str], list[float]] = {}
    operators = sorted(filter(_is_operator, listed), key=lambda each: each.time_range.start)
    inside: list[tuple[float, float, str]] = []
    following = 0
    for each in operators:
        start = each.time_range.start
        while following < len(parts) and parts[following][0] <= start:
            inside.append(parts[following])
            following += 1
        while inside and inside[-1][1] < start:
            inside.pop()
        key = (each.name, _dtype(each), inside[-1][2] if inside else REST)
        taken = each.self_device_time_total if is_cuda else each.self_cpu_time_total
        sums = found.setdefault(key, [0.0, 0.0])
        sums[0] += 1
        sums[1] += taken / 1e6  # microseconds
    total = sum(seconds for _, seconds in found.values()) or 1.0
    made = [
        Operator(*key, calls / steps, seconds / steps, seconds / total)
        for key, (calls, seconds) in found.items()
    ]
    return sorted(made, key=lambda each: -each.seconds)


def fp32_islands(operators: Sequence[Operator], precision: str) -> list[Operator]:
    """Expensive operators in fp32 although the precision is a lower one; most expensive first.

    What works on parameters (optimizer, averages, clipping) is fp32 on purpose.
    """
    if precision == "fp32":
        return []
    return [
        each
        for each in operators
        if each.dtype == "fp32" and each.part not in UPDATES and each.share >= LEAST_SHARE
    ]


def _is_operator(event: Any) -> bool:
    """Operators have a name space; nodes of the graph only call them."""
    return "::" in event.name and not event.name.startswith(("autograd::", PREFIX))


def _dtype(event: Any) -> str:
    # Not known to the profiler of every torch.
    given = [FLOATS[each] for each in getattr(event, "input_dtypes", ()) or () if each in FLOATS]
    if not given:
        return ""
    if event.name == "aten::copy_" and len(given) > 1 and given[0] != given[1]:
        return f"{given[1]} to {given[0]}"  # the first one is written to
    return given[0]
