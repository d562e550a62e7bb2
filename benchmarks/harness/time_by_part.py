"""Seconds of the parts of a work: the modules of a model, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.harness.measurement import Clock, format_quantity
from benchmarks.harness.side_by_side import Work, get_clock
from resnet_tasks.profiling.timeline import OTHER, Timeline

REST = "rest"
"""Label of the time outside of all parts."""


def measure_parts(
    sides: Sequence[tuple[Work, Mapping[str, nn.Module]]],
    device: torch.device,
    repeats: int,
    clock: Clock = "wall",
) -> list[dict[str, float]]:
    """Measure the median seconds of the parts of works that alternate, after a warm-up of each.

    Args:
        sides: For each side, the callable that does its work once, and label -> module, whose
            forward is timed.
        device: Device of the works.
        repeats: Number of timed calls of each work.
        clock: Clock of the seconds, see `get_clock`.

    Returns:
        For each side, label -> seconds; `REST` is everything else, such as losses, gradients or
        suppression.
    """
    read_clock = get_clock(clock, device)
    timelines = [Timeline(device, read_clock) for _ in sides]
    with ExitStack() as undo:
        for timeline, (_, parts) in zip(timelines, sides, strict=True):
            for label, module in parts.items():
                _attach(timeline, label, module, undo)
        for work, _ in sides:
            work()
        for _ in range(repeats):
            for timeline, (work, _) in zip(timelines, sides, strict=True):
                timeline.begin_step()
                work()
                timeline.end_step()
    return [
        {
            name: median(step.get(label, 0.0) for step in timeline.steps)
            for name, label in {**dict(zip(parts, parts, strict=True)), REST: OTHER}.items()
        }
        for timeline, (_, parts) in zip(timelines, sides, strict=True)
    ]


def _attach(timeline: Timeline, label: str, module: nn.Module, undo: ExitStack) -> None:
    def enter(*_: Any) -> None:
        timeline.enter(label)

    def leave(*_: Any) -> None:
        timeline.leave()

    undo.callback(module.register_forward_pre_hook(enter).remove)
    undo.callback(module.register_forward_hook(leave, always_call=True).remove)


def format_parts(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Format the seconds of all parts, ours and the peer's, with the speedup."""
    return "; ".join(
        f"{name} {format_quantity(seconds, 's')}, peer's {format_quantity(theirs[name], 's')} "
        f"({theirs[name] / max(seconds, 1e-9):.2f}x)"
        for name, seconds in ours.items()
    )
