"""Operators by time, type and part."""

from __future__ import annotations

from types import SimpleNamespace as Made
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import record_function

from resnet_tasks.profiling.operator_profile import (
    OperatorStats,
    aggregate_events,
    find_fp32_islands,
    profile_operators,
)
from resnet_tasks.profiling.timeline import BACKWARD, OPTIMIZER, OTHER, PREFIX, Timeline

CPU = torch.device("cpu")


def event(name: str, start: float, end: float, own: float, *types: str) -> Any:
    """As the profiler hands them over, in microseconds."""
    return Made(
        name=name,
        time_range=Made(start=start, end=end),
        self_cpu_time_total=own,
        input_dtypes=list(types),
        device_type=DeviceType.CPU,
    )


def test_operators_are_summed_by_type_and_innermost_part() -> None:
    events = [
        event(f"{PREFIX}forward: a", 0, 100, 0),
        event(f"{PREFIX}forward: a b", 20, 40, 0),
        event("aten::mm", 1, 10, 9, "float", "float"),
        event("aten::mm", 21, 30, 9, "c10::BFloat16"),
        event("aten::mm", 50, 60, 2, "Scalar", "float"),
        event("aten::copy_", 70, 75, 20, "c10::BFloat16", "float"),
        event("AddmmBackward0", 80, 99, 500, "float"),
        event("aten::add", 120, 130, 40, "Scalar"),
    ]
    found = aggregate_events(events, steps=2)
    shown = [(e.name, e.dtype, e.part, e.calls, e.seconds, round(e.share, 4)) for e in found]
    assert shown == [
        ("aten::add", "", OTHER, 0.5, 20e-6, 0.5),
        ("aten::copy_", "fp32 to bf16", "forward: a", 0.5, 10e-6, 0.25),
        ("aten::mm", "fp32", "forward: a", 1.0, 5.5e-6, 0.1375),
        ("aten::mm", "bf16", "forward: a b", 0.5, 4.5e-6, 0.1125),
    ]


def test_islands_are_expensive_fp32_outside_of_the_update() -> None:
    def made(name: str, dtype: str, part: str, share: float) -> OperatorStats:
        return OperatorStats(name, dtype, part, 1, share, share)

    island = made("aten::mm", "fp32", "forward: a", 0.2)
    others = [
        made("aten::mm", "bf16", "forward: a", 0.5),
        made("aten::_fused_adamw_", "fp32", OPTIMIZER, 0.2),
        made("aten::copy_", "fp32 to bf16", BACKWARD, 0.05),
        made("aten::add", "fp32", BACKWARD, 0.009),
    ]
    assert find_fp32_islands([island, *others], "bf16") == [island]
    assert find_fp32_islands([island, *others], "fp32") == []


def test_a_timeline_marks_its_parts_in_a_running_profiler() -> None:
    timeline, x = Timeline(CPU), torch.rand(8, 8)

    def step() -> None:
        timeline.begin_step()
        with timeline.record_part("forward: a"), timeline.record_part("forward: a b"):
            x @ x
        with timeline.record_part(BACKWARD), timeline.record_part("forward: a"):
            x @ x
        timeline.end_step()

    found = profile_operators(step, 2, CPU)
    assert {e.part: e.calls for e in found if e.name == "aten::mm"} == {
        "forward: a b": 1,
        BACKWARD: 1,
    }


@pytest.mark.skipif(
    not hasattr(torch.autograd.profiler_util.FunctionEvent, "input_dtypes")
    and torch.__version__ < "2.9",
    reason="this torch's profiler does not tell types",
)
def test_a_real_profile_tells_types_and_parts() -> None:
    x = torch.rand(256, 256)

    def step() -> None:
        with record_function(f"{PREFIX}forward: slow"), torch.autocast("cpu", enabled=False):
            x @ x
        with record_function(f"{PREFIX}forward: fast"), torch.autocast("cpu", torch.bfloat16):
            x @ x

    found = {(e.part, e.dtype): e for e in profile_operators(step, 2, CPU) if e.name == "aten::mm"}
    assert found.keys() == {("forward: slow", "fp32"), ("forward: fast", "bf16")}
    assert all(each.calls == 1 and each.seconds > 0 for each in found.values())
