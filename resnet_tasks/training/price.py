"""What models cost, measured side by side in one process: parameters, work, time and memory."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel, autocast, resolve_precision
from resnet_tasks.structures import Batch, Geometry
from resnet_tasks.training.quiet_profiler import quiet_profile
from resnet_tasks.training.run import Run

REPEATS = 9
WARM_UPS = 2
DEFAULT_SIZE = (480, 640)


@dataclass(frozen=True)
class Price:
    """What one forward of one picture takes.

    Attributes:
        parameters: Of the whole model.
        multiply_adds: Of convolutions and matrix products; those of detectors depend on how many
            proposals the picture gives.
        seconds: Median of the repeats.
        memory: Bytes of parameters and buffers, and the most that was taken besides at once.
    """

    parameters: int
    multiply_adds: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Prices:
    """Several models under the same conditions.

    Attributes:
        size: (height, width) of the picture.
        precision: `fp32`, `bf16` or `fp16`.
        device: For people.
        each: By name.
    """

    size: tuple[int, int]
    precision: str
    device: str
    each: dict[str, Price]

    @property
    def conditions(self) -> str:
        """How the numbers were made, for people."""
        height, width = self.size
        return (
            f"one forward of one picture of {height} x {width} (height x width), {self.precision}, "
            f"{self.device}; median of {REPEATS}, the models taking turns"
        )


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `work` holds at once, beyond what was there before.

    What torch's allocator gives out counts, with what operators take for themselves while they run
    (on a CPU oneDNN's own buffers apart, which are not torch's).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with quiet_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    held = peak = 0
    for change in _allocations(watched):
        held += change
        peak = max(peak, held)
    return peak


def _allocations(watched: profile) -> list[int]:
    """Bytes that were taken, and given back (negative), in order."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        watched.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    found = [each for each in events if each.get("name") == "[memory]"]
    return [each["args"]["Bytes"] for each in sorted(found, key=lambda each: each["ts"])]


def taking_turns(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int = REPEATS
) -> list[float]:
    """Median seconds of each work; they take turns, so that the machine's moods hit all alike."""
    return [median(each) for each in seconds_in_turns(works, device, repeats)]


def seconds_in_turns(
    works: Sequence[Callable[[], object]], device: torch.device, repeats: int = REPEATS
) -> list[list[float]]:
    """Seconds of every timed run of each work, in turns, after `WARM_UPS` that do not count."""
    taken: list[list[float]] = [[] for _ in works]
    for turn in range(-WARM_UPS, repeats):
        for number, work in enumerate(works):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= 0:
                taken[number].append(time.perf_counter() - started)
    return taken


def noise_picture(size: tuple[int, int], channels: int, device: torch.device) -> Batch:
    """A batch of one picture of noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, channels, *size, generator=generator).to(device)
    return Batch(
        images=images.contiguous(memory_format=torch.channels_last),
        geometries=(Geometry(size, size),),
        image_ids=(0,),
        file_names=("noise",),
        targets=(),
        seeds=(0,),
    )


@torch.no_grad()
def measure_prices(
    models: Mapping[str, TaskModel],
    size: tuple[int, int],
    *,
    precision: str = "fp32",
    repeats: int = REPEATS,
) -> Prices:
    """The price of each model, all on the same picture, device and precision.

    Args:
        models: By name; in any mode, which they keep.
        size: (height, width) of the picture; multiples of 32.
        precision: `fp32`, `bf16` or `fp16`.
        repeats: Timed forwards of each.

    Raises:
        RunError: If the size is no multiple of 32.
    """
    if any(side % 32 or side < 32 for side in size):
        raise RunError(
            f"the picture of {size[0]} x {size[1]} (height x width) must have sides that are "
            "multiples of 32"
        )
    device = next(iter(models.values())).device

    def forward_of(model: TaskModel) -> Callable[[], object]:
        picture = noise_picture(size, len(model.mean), device)

        def forward() -> object:
            with autocast(device, precision):
                return model(picture, mode="raw")

        return forward

    was_training = {name: model.training for name, model in models.items()}
    forwards = {name: forward_of(model.eval()) for name, model in models.items()}
    seconds = taking_turns(list(forwards.values()), device, repeats)
    prices = {}
    for (name, model), taken in zip(models.items(), seconds, strict=True):
        with FlopCounterMode(display=False) as counter:
            forwards[name]()
        held = sum(each.numel() * each.element_size() for each in model.state_dict().values())
        prices[name] = Price(
            sum(each.numel() for each in model.parameters()),
            counter.get_total_flops() // 2,
            taken,
            held + peak_bytes(forwards[name], device),
        )
        model.train(was_training[name])
    return Prices(size, precision, _described(device), prices)


def price_runs(runs: Sequence[Run], size: str | None = None) -> Prices:
    """The price of the last checkpoints of runs, in their order.

    Args:
        runs: Opened.
        size: `HEIGHTxWIDTH`; default: the pictures of the first run's recipe, padded to multiples
            of 32, or 480x640 where it does not resize. Precision is that of the first run too.

    Raises:
        RunError: If the size is none, or a run has no checkpoint.
    """
    models = {f"{i} {run.directory}": run.model() for i, run in enumerate(runs)}
    recipe = runs[0].recipe
    chosen = DEFAULT_SIZE
    if size is not None:
        chosen = _size(size)
    elif recipe.data.resize is not None:
        chosen = (recipe.data.resize.height, recipe.data.resize.width)
    padded = (-(-chosen[0] // 32) * 32, -(-chosen[1] // 32) * 32)
    device = next(iter(models.values())).device
    for model in models.values():
        model.to(device)
    precision = resolve_precision(recipe.training.precision, device)
    return measure_prices(models, padded, precision=precision)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise RunError(f"--size is {text!r}; write HEIGHTxWIDTH in pixels, such as 480x640")
    return int(found[1]), int(found[2])


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} thread(s)"
