"""Where the time of a training step goes: probes at its parts, which change nothing it computes.

Every moment of a step belongs to one label, that of the innermost part it is in, or `REST`: the
parts sum to the whole step. On a GPU the moments are events in its stream, which nobody has
to wait for; waiting of the GPU for this process counts for the part that let it wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import isfunction
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.state.train_state import TrainState

DATA = "data: waiting for the batch"
TRANSFER = "data: copy to the device"
COUNTING = "counts of accumulation: a forward without graph"
BACKWARD = "backward"
CLIPPING = "gradient: norm and clipping"
OPTIMIZER = "optimizer"
AVERAGING = "averaged weights (ema)"
OTHER = "rest of the step"
UNDIVIDED_PARTS = frozenset({BACKWARD, COUNTING, OPTIMIZER, AVERAGING})
"""Parts that are not divided further: what runs inside belongs to them."""

ORDER = (DATA, TRANSFER, COUNTING, "forward", BACKWARD, CLIPPING, OPTIMIZER, AVERAGING, OTHER)
"""Starts of the labels, in the order of a step."""
_IGNORED_METHODS = {"forward", "extra_repr", "train"}


class Timeline:
    """Seconds by label, step by step.

    Args:
        device: Where the model lies.

    Attributes:
        steps: For each finished step: label -> seconds.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._labels: list[str] = []
        self._marks: list[tuple[str, Any]] = []
        self.steps: list[dict[str, float]] = []

    def begin_step(self) -> None:
        """A step begins."""
        self._labels.clear()
        self._marks = [(OTHER, self._read_clock())]

    def end_step(self) -> None:
        """The step ends: its seconds are added to `steps`."""
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
        """What runs inside belongs to `label`, but for parts within."""
        self.enter(label)
        try:
            yield
        finally:
            self.leave()

    def enter(self, label: str) -> None:
        """A part begins; inside of one of `WHOLE` it stays that one."""
        top = self._labels[-1] if self._labels else OTHER
        self._labels.append(top if top in UNDIVIDED_PARTS else label)
        self._mark()

    def leave(self) -> None:
        """The innermost part ends."""
        self._labels.pop()
        self._mark()

    def _mark(self) -> None:
        if self._marks:  # else outside of a step
            self._marks.append((self._labels[-1] if self._labels else OTHER, self._read_clock()))

    def _read_clock(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _compute_seconds(self, start: Any, stop: Any) -> float:
        if self._device.type != "cuda":
            return float(stop - start)
        return float(start.elapsed_time(stop)) / 1000


class RecordingTimeline(Timeline):
    """A timeline that hands its parts to torch's profiler, under their labels."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._open: list[Any] = []

    def enter(self, label: str) -> None:
        """As in `Timeline`."""
        super().enter(label)
        self._open.append(record_function(f"{PREFIX}{self._labels[-1]}"))
        self._open[-1].__enter__()

    def leave(self) -> None:
        """As in `Timeline`."""
        self._open.pop().__exit__(None, None, None)
        super().leave()


PREFIX = "part of the step: "
"""Of the names under which the profiler knows the parts."""


class _Probes:
    """Hooks and timed methods that tell a timeline, and can be taken off again."""

    def __init__(self, timeline: Timeline, undo: ExitStack) -> None:
        self._timeline = timeline
        self._undo = undo

    def probe_module(self, part: nn.Module, label: str, without_graph: str = "") -> None:
        """What a module takes when it is called; `without_graph` names calls without one."""

        def enter(*_: Any) -> None:
            is_plain = torch.is_grad_enabled() or not without_graph
            self._timeline.enter(label if is_plain else without_graph)

        def leave(*_: Any) -> None:
            self._timeline.leave()

        self._undo.callback(part.register_forward_pre_hook(enter).remove)
        self._undo.callback(part.register_forward_hook(leave, always_call=True).remove)

    def probe_method(self, owner: Any, name: str, label: str) -> None:
        """What a method of an object takes."""
        original = getattr(owner, name)

        @wraps(original)
        def call_timed(*args: Any, **kwargs: Any) -> Any:
            with self._timeline.record_part(label):
                return original(*args, **kwargs)

        before = vars(owner).get(name)  # accelerate puts methods of its own on some objects
        setattr(owner, name, call_timed)
        if before is None:
            self._undo.callback(delattr, owner, name)  # the method of the class stands below it
        else:
            self._undo.callback(setattr, owner, name, before)

    def probe_head(self, name: str, head: nn.Module) -> None:
        """Losses of a head, and its parts: their calls, and their public methods."""
        self.probe_method(head, "loss", f"forward: {name} losses")
        self.probe_module(head, f"forward: {name}")
        for inner, child in head.named_children():
            self.probe_module(child, f"forward: {name} {inner}")
            for method_name in _list_public_methods(child):
                self.probe_method(child, method_name, f"forward: {name} {inner}.{method_name}")


@contextmanager
def attach_probes(train_state: TrainState, timeline: Timeline) -> Iterator[None]:
    """Tells a timeline which part of a step a model in training is in; results stay the same.

    Args:
        train_state: Whose parts are probed while this holds.
        timeline: Told.
    """
    model = train_state.plain_model
    with ExitStack() as undo:
        probes = _Probes(timeline, undo)
        probes.probe_module(train_state.model, "forward: rest", without_graph=COUNTING)
        probes.probe_method(model, "normalize", "forward: normalize")
        probes.probe_module(model.backbone, "forward: backbone")
        for label, part in _list_stages(model.backbone):
            probes.probe_module(part, f"forward: backbone {label}")
        if model.pyramid is not None:
            probes.probe_module(model.pyramid, "forward: shared pyramid")
        for name, head in model.named_heads.items():
            probes.probe_head(name, head)
        probes.probe_method(train_state.accelerator, "backward", BACKWARD)
        probes.probe_method(train_state.accelerator, "clip_grad_norm_", CLIPPING)
        probes.probe_method(train_state.optimizer, "step", OPTIMIZER)
        probes.probe_method(train_state.optimizer, "zero_grad", OPTIMIZER)
        if train_state.ema is not None:
            probes.probe_method(train_state.ema, "update", AVERAGING)
        yield


def copy_to_device(timeline: Timeline, group: list[Batch], device: torch.device) -> list[Batch]:
    """The batches on the device, where the step would bring them; timed."""
    with timeline.record_part(TRANSFER):
        return [batch.to(device, non_blocking=True) for batch in group]


def _list_stages(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a backbone that are called, each with its stage: `stem`, `C2` .. `C5`."""
    stages = []
    for number, paths in enumerate(getattr(backbone, "stage_parts", ()), start=1):
        for path in paths:
            part = backbone.get_submodule(path)
            # With checkpoints blocks are called one by one, and not the stage that holds them.
            is_divided = number > 1 and getattr(backbone, "gradient_checkpointing", False)
            called = list(getattr(part, "blocks", part).children()) if is_divided else []
            label = "stem" if number == 1 else f"C{number}"
            stages += [(label, block) for block in called or [part]]
    return stages


def _list_public_methods(module: nn.Module) -> list[str]:
    """Public methods that a part of a head has besides `forward`."""
    method_names = {
        name
        for kind in type(module).__mro__
        if kind not in nn.Module.__mro__ and not kind.__module__.startswith("torch.")
        for name, value in vars(kind).items()
        if isfunction(value) and not name.startswith("_")
    }
    return sorted(method_names - _IGNORED_METHODS)


def find_order_index(label: str) -> int:
    """Where a part comes in a step, among those of `ORDER`."""
    return next(i for i, start in enumerate(ORDER) if label.startswith(start))
