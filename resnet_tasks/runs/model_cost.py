"""Cost of models, measured in one process: parameters, operations, time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.devices import autocast, resolve_precision
from resnet_tasks.runtime.quiet_profiler import create_quiet_profiler
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.samples import Batch

REPEATS = 9
WARM_UPS = 2
DEFAULT_SIZE = (480, 640)


@dataclass(frozen=True)
class ModelCost:
    """Cost of one forward pass on one image.

    Attributes:
        parameters: Number of parameters of the whole model.
        multiply_adds: Multiply-adds of convolutions and matrix products. For detectors the number
            depends on how many proposals the image yields.
        seconds: Median duration over the repeats.
        memory: Bytes of parameters and buffers, plus the peak of the memory allocated during the
            forward pass.
    """

    parameters: int
    multiply_adds: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class CostComparison:
    """Costs of several models under the same conditions.

    Attributes:
        size: (height, width) of the image, pixels.
        precision: `fp32`, `bf16` or `fp16`.
        device: Description of the device for display.
        by_model: Model name -> cost.
    """

    size: tuple[int, int]
    precision: str
    device: str
    by_model: dict[str, ModelCost]

    @property
    def conditions(self) -> str:
        """Description of the measurement conditions for display."""
        height, width = self.size
        return (
            f"one forward pass of one image of {height} x {width} (height x width), "
            f"{self.precision}, {self.device}; median of {REPEATS} passes, interleaved between "
            "models"
        )


def measure_peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Return the peak of the bytes that `function` allocates on top of those allocated before.

    This includes all allocations through torch's allocator, such as temporary buffers of operators,
    but not the buffers that oneDNN allocates on a CPU.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with create_quiet_profiler(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    recorded: Any = profiler.profiler
    events = sorted(recorded.kineto_results.events(), key=lambda event: event.start_ns())
    # Freed bytes are negative.
    changes = (event.nbytes() for event in events if event.name() == "[memory]")
    return int(max(accumulate(changes, initial=0)))


def time_interleaved_median(
    functions: Sequence[Callable[[], object]], device: torch.device, repeats: int = REPEATS
) -> list[float]:
    """Return the median seconds of each function; calls alternate to share load fluctuations."""
    return [median(durations) for durations in time_interleaved(functions, device, repeats)]


def time_interleaved(
    functions: Sequence[Callable[[], object]],
    device: torch.device,
    repeats: int = REPEATS,
    read_clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return the seconds of each function's timed calls, interleaved, after `WARM_UPS` calls.

    Args:
        functions: Functions to time.
        device: Device that the functions use.
        repeats: Number of timed calls of each function.
        read_clock: Clock in seconds.
    """
    durations: list[list[float]] = [[] for _ in functions]
    for turn in range(-WARM_UPS, repeats):
        for number, function in enumerate(functions):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = read_clock()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn >= 0:
                durations[number].append(read_clock() - started)
    return durations


def make_noise_batch(size: tuple[int, int], channels: int, device: torch.device) -> Batch:
    """Return a batch with one noise image, which is the same in every call."""
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
def measure_costs(
    models: Mapping[str, TaskModel],
    size: tuple[int, int],
    *,
    precision: str = "fp32",
    repeats: int = REPEATS,
) -> CostComparison:
    """Measure the cost of each model, all on the same image, device and precision.

    Args:
        models: Model name -> model; training mode is restored afterwards.
        size: (height, width) of the image; multiples of 32.
        precision: `fp32`, `bf16` or `fp16`.
        repeats: Number of timed forward passes per model.

    Raises:
        RunError: If a side of the image is not a multiple of 32.
    """
    if any(side % 32 or side < 32 for side in size):
        raise RunError(
            f"an image of {size[0]} x {size[1]} (height x width) pixels cannot be measured; both "
            "sides must be multiples of 32"
        )
    device = next(iter(models.values())).device

    def make_forward(model: TaskModel) -> Callable[[], object]:
        batch = make_noise_batch(size, len(model.mean), device)

        def forward() -> object:
            with autocast(device, precision):
                return model(batch, mode="raw")

        return forward

    was_training = {name: model.training for name, model in models.items()}
    forwards = {name: make_forward(model.eval()) for name, model in models.items()}
    seconds = time_interleaved_median(list(forwards.values()), device, repeats)
    costs = {}
    for (name, model), median_seconds in zip(models.items(), seconds, strict=True):
        with FlopCounterMode(display=False) as counter:
            forwards[name]()
        weight_bytes = sum(
            tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()
        )
        costs[name] = ModelCost(
            sum(parameter.numel() for parameter in model.parameters()),
            counter.get_total_flops() // 2,
            median_seconds,
            weight_bytes + measure_peak_bytes(forwards[name], device),
        )
        model.train(was_training[name])
    return CostComparison(size, precision, _describe_device(device), costs)


def measure_run_costs(runs: Sequence[Run], size: str | None = None) -> CostComparison:
    """Measure the cost of the last checkpoints of runs, in the order of the runs.

    Args:
        runs: Opened runs.
        size: `HEIGHTxWIDTH`; default: image size of the first run's recipe, padded to multiples of
            32, or 480x640 if that recipe does not resize. The precision is also that of the first
            run.

    Raises:
        RunError: If `size` cannot be parsed, or a run has no checkpoint.
    """
    models = {f"{i} {run.directory}": run.load_model() for i, run in enumerate(runs)}
    recipe = runs[0].recipe
    image_size = DEFAULT_SIZE
    if size is not None:
        image_size = _parse_size(size)
    elif recipe.data.resize is not None:
        image_size = (recipe.data.resize.height, recipe.data.resize.width)
    padded = (-(-image_size[0] // 32) * 32, -(-image_size[1] // 32) * 32)
    device = next(iter(models.values())).device
    for model in models.values():
        model.to(device)
    precision = resolve_precision(recipe.training.precision, device)
    return measure_costs(models, padded, precision=precision)


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise RunError(f"--size is {text!r}; write HEIGHTxWIDTH in pixels, such as 480x640")
    return int(match[1]), int(match[2])


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {Count(torch.get_num_threads()):thread}"
