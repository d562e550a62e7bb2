"""Seconds of the parts of a work: the modules of a model, and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.harness.measurement import format_quantity
from benchmarks.harness.side_by_side import Work
from resnet_tasks.profiling.timeline import OTHER, Timeline

REST = "rest"
"""Label of the time outside of all parts."""


def measure_parts(
    work: Work, parts: Mapping[str, nn.Module], device: torch.device, repeats: int
) -> dict[str, float]:
    """Measure the median seconds of the parts of a work, after one call as a warm-up.

    Args:
        work: Callable that does the work once.
        parts: Label -> module, whose forward is timed.
        device: Device of the work.
        repeats: Number of timed calls.

    Returns:
        Label -> seconds; `REST` is everything else, such as losses, gradients or suppression.
    """
    timeline = Timeline(device)
    with ExitStack() as undo:
        for label, module in parts.items():

            def enter(*_: Any, label: str = label) -> None:
                timeline.enter(label)

            def leave(*_: Any) -> None:
                timeline.leave()

            undo.callback(module.register_forward_pre_hook(enter).remove)
            undo.callback(module.register_forward_hook(leave, always_call=True).remove)
        work()
        for _ in range(repeats):
            timeline.begin_step()
            work()
            timeline.end_step()
    labels = {**{label: label for label in parts}, REST: OTHER}
    return {
        name: median(step.get(label, 0.0) for step in timeline.steps)
        for name, label in labels.items()
    }


def format_parts(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Format the seconds of all parts, ours and the peer's, with the speedup."""
    return "; ".join(
        f"{name} {format_quantity(seconds, 's')}, peer's {format_quantity(theirs[name], 's')} "
        f"({theirs[name] / max(seconds, 1e-9):.2f}x)"
        for name, seconds in ours.items()
    )
