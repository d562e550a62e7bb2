"""Timeline of a training step: probes that time its parts without changing its results.

Every moment of a step is assigned to exactly one label: that of the innermost part that is running,
or `OTHER`. The parts therefore sum to the entire step. On a GPU the times come from events in its
stream, which need no synchronization. Time in which the GPU waits for this process counts for the
part that causes the wait.

torch's profiler is not used as the clock: it records every operator, which makes parts with many
small operators up to 1.7 times as long (measured on a CPU).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import isfunction
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.train_step import TrainStep

DATA = "data: waiting for the batch"
TRANSFER = "data: copy to the device"
COUNTING = "accumulation: counting pass without graph"
BACKWARD = "backward"
CLIPPING = "gradient: norm and clipping"
OPTIMIZER = "optimizer"
AVERAGING = "averaged weights (ema)"
OTHER = "rest of the step"
UNDIVIDED_PARTS = frozenset({BACKWARD, COUNTING, OPTIMIZER, AVERAGING})
"""Labels of parts that are not divided further: nested parts count for them."""

ORDER = (DATA, TRANSFER, COUNTING, "forward", BACKWARD, CLIPPING, OPTIMIZER, AVERAGING, OTHER)
"""Prefixes of the labels, in the order of a step."""
_IGNORED_METHODS = {"forward", "extra_repr", "train"}


PREFIX = "part of the step: "
"""Prefix of the names of the parts in torch's profiler."""


class Timeline:
    """Seconds by label for every step; a running torch profiler also records the parts.

    Args:
        device: Device of the model.
        read_clock: Clock in seconds; a GPU has its own.

    Attributes:
        steps: Label -> seconds, one mapping per finished step.
    """

    def __init__(
        self, device: torch.device, read_clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._device = device
        self._read_cpu_clock = read_clock
        self._open: list[tuple[str, Any]] = []
        self._marks: list[tuple[str, Any]] = []
        self.steps: list[dict[str, float]] = []

    def begin_step(self) -> None:
        """Mark the start of a step."""
        self._open.clear()
        self._marks = [(OTHER, self._read_clock())]

    def end_step(self) -> None:
        """Mark the end of the step and append its seconds by label to `steps`."""
        self._marks.append(("", self._read_clock()))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds_by_label: dict[str, float] = {OTHER: 0.0}
        for (label, start), (_, stop) in zip(self._marks, self._marks[1:], strict=False):
            seconds_by_label[label] = seconds_by_label.get(label, 0.0) + self._compute_seconds(
                start, stop
            )
        self.steps.append(seconds_by_label)
        self._marks = []

    @contextmanager
    def record_part(self, label: str) -> Iterator[None]:
        """Record the block as part `label`, except for nested parts."""
        self.enter(label)
        try:
            yield
        finally:
            self.leave()

    def enter(self, label: str) -> None:
        """Mark the start of a part; inside one of `UNDIVIDED_PARTS` the outer label remains."""
        top = self._get_label()
        part = top if top in UNDIVIDED_PARTS else label
        record: Any = record_function(f"{PREFIX}{part}")
        record.__enter__()
        self._open.append((part, record))
        self._mark()

    def leave(self) -> None:
        """Mark the end of the innermost part."""
        _, record = self._open.pop()
        self._mark()
        record.__exit__(None, None, None)

    def _get_label(self) -> str:
        return self._open[-1][0] if self._open else OTHER

    def _mark(self) -> None:
        if self._marks:  # empty outside a step, such as in an evaluation
            self._marks.append((self._get_label(), self._read_clock()))

    def _read_clock(self) -> Any:
        if self._device.type != "cuda":
            return self._read_cpu_clock()
        # The kernels of a part run after the CPU has queued them, so the CPU's clock would be
        # wrong, and a synchronization at every mark would slow the step down.
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _compute_seconds(self, start: Any, stop: Any) -> float:
        if self._device.type != "cuda":
            return float(stop - start)
        return float(start.elapsed_time(stop)) / 1000  # milliseconds


class _Probes:
    """Forward hooks and wrapped methods that report to a timeline and can be removed again.

    Args:
        timeline: Timeline to report to.
        undo: Stack whose close removes the probes.
    """

    def __init__(self, timeline: Timeline, undo: ExitStack) -> None:
        self._timeline = timeline
        self._undo = undo

    def probe_module(self, part: nn.Module, label: str, without_graph: str = "") -> None:
        """Record the calls of a module.

        Args:
            part: Module to probe.
            label: Label of the calls.
            without_graph: Label of calls under `torch.no_grad()`; empty: `label`.
        """

        def enter(*_: Any) -> None:
            is_plain = torch.is_grad_enabled() or not without_graph
            self._timeline.enter(label if is_plain else without_graph)

        def leave(*_: Any) -> None:
            self._timeline.leave()

        self._undo.callback(part.register_forward_pre_hook(enter).remove)
        self._undo.callback(part.register_forward_hook(leave, always_call=True).remove)

    def probe_method(self, owner: Any, name: str, label: str) -> None:
        """Record the calls of a method of an object."""
        original = getattr(owner, name)

        @wraps(original)
        def call_timed(*args: Any, **kwargs: Any) -> Any:
            with self._timeline.record_part(label):
                return original(*args, **kwargs)

        before = vars(owner).get(name)  # accelerate sets methods on some instances
        setattr(owner, name, call_timed)
        if before is None:
            self._undo.callback(delattr, owner, name)  # reveals the method of the class
        else:
            self._undo.callback(setattr, owner, name, before)

    def probe_head(self, name: str, head: nn.Module) -> None:
        """Record the calls and losses of a head, and the calls and public methods of its parts."""
        self.probe_method(head, "loss", f"forward: {name} losses")
        self.probe_module(head, f"forward: {name}")
        for inner, child in head.named_children():
            self.probe_module(child, f"forward: {name} {inner}")
            for method_name in _list_public_methods(child):
                self.probe_method(child, method_name, f"forward: {name} {inner}.{method_name}")


@contextmanager
def attach_probes(train_step: TrainStep, timeline: Timeline) -> Iterator[None]:
    """Record the parts of training steps inside the block; results stay the same.

    Args:
        train_step: Model, optimizer and accelerator to probe.
        timeline: Timeline that records the parts.
    """
    model = train_step.model
    with ExitStack() as undo:
        probes = _Probes(timeline, undo)
        probes.probe_module(train_step.loss_module, "forward: rest", without_graph=COUNTING)
        probes.probe_method(model, "normalize", "forward: normalize")
        probes.probe_module(model.backbone, "forward: backbone")
        for label, part in _list_stages(model.backbone):
            probes.probe_module(part, f"forward: backbone {label}")
        if model.pyramid is not None:
            probes.probe_module(model.pyramid, "forward: shared pyramid")
        for name, head in model.named_heads.items():
            probes.probe_head(name, head)
        probes.probe_method(train_step.accelerator, "backward", BACKWARD)
        probes.probe_method(train_step.accelerator, "clip_grad_norm_", CLIPPING)
        probes.probe_method(train_step.optimizer, "step", OPTIMIZER)
        probes.probe_method(train_step.optimizer, "zero_grad", OPTIMIZER)
        if train_step.ema is not None:
            probes.probe_method(train_step.ema, "update", AVERAGING)
        yield


def copy_to_device(timeline: Timeline, group: list[Batch], device: torch.device) -> list[Batch]:
    """Copy batches to the device and record the time as `TRANSFER`; the step then copies nothing.

    Args:
        timeline: Timeline that records the copy.
        group: Batches of one step.
        device: Device of the model.
    """
    with timeline.record_part(TRANSFER):
        return [batch.to(device, non_blocking=True) for batch in group]


def _list_stages(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules of a backbone that are called, with their stage: `stem`, `C2` .. `C5`."""
    stages = []
    for number, paths in enumerate(getattr(backbone, "stage_parts", ()), start=1):
        for path in paths:
            part = backbone.get_submodule(path)
            # Gradient checkpointing calls the blocks one by one and never the stage itself, so a
            # hook on the stage would not fire.
            is_divided = number > 1 and getattr(backbone, "gradient_checkpointing", False)
            called = list(getattr(part, "blocks", part).children()) if is_divided else []
            label = "stem" if number == 1 else f"C{number}"
            stages += [(label, block) for block in called or [part]]
    return stages


def _list_public_methods(module: nn.Module) -> list[str]:
    """Return the public methods of a module except `forward` and those of torch's classes."""
    method_names = {
        name
        for kind in type(module).__mro__
        if kind not in nn.Module.__mro__ and not kind.__module__.startswith("torch.")
        for name, value in vars(kind).items()
        if isfunction(value) and not name.startswith("_")
    }
    return sorted(method_names - _IGNORED_METHODS)


def find_order_index(label: str) -> int:
    """Return the position of a label's prefix in `ORDER`."""
    return next(i for i, start in enumerate(ORDER) if label.startswith(start))
