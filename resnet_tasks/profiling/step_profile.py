"""Profile of a training step: time by part and by operator, and memory."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from resnet_tasks.assemble.training_setup import TrainingSetup
from resnet_tasks.errors import RunError
from resnet_tasks.profiling.data_loading_cost import ReadingCost, measure_reading_cost
from resnet_tasks.profiling.dry_run import measure_peak_rss
from resnet_tasks.profiling.operator_profile import OperatorStats, profile_operators
from resnet_tasks.profiling.timeline import (
    DATA,
    Timeline,
    attach_probes,
    copy_to_device,
    find_order_index,
)
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.model_cost import measure_peak_bytes
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.cpu_count import count_usable_cores
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.samples import Batch

PROFILED_STEPS = 2
"""Number of steps that torch's profiler records."""


@dataclass(frozen=True)
class StepPart:
    """Time of one part of the step.

    Attributes:
        name: Label of the part, see `timeline`.
        seconds: Median seconds over the measured steps.
        share: Share of the time of all measured steps, 0..1; the shares of all parts sum to 1.
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class MemoryUsage:
    """Peak memory of a training, in bytes.

    Attributes:
        process: Peak resident memory of this process since its start.
        step: Peak of the tensors that a step allocates on top of the memory that stays allocated
            between steps; on a GPU as counted by torch's allocator.
        device: Peak of the reserved GPU memory; None on a CPU.
        total: Total memory of the GPU, or of the machine on a CPU.
    """

    process: int
    step: int
    device: int | None
    total: int


@dataclass(frozen=True)
class ProfileConditions:
    """Conditions under which a step was measured.

    Attributes:
        recipe: Name of the recipe.
        is_drawn: Whether images, annotations and weights are random.
        device: `cpu` or `cuda`.
        machine: Name of the GPU or CPU, for display.
        precision: `fp32`, `bf16` or `fp16`.
        best_precision: Precision that `training.precision: auto` selects on this machine.
        threads: Number of torch threads of this process.
        cores: Number of CPU cores that this process may use.
        workers: Number of loader workers.
        batch_size: Images per batch.
        accumulation: Batches per step.
        image_size: (H, W) of the last step's first batch, in pixels, padding included.
        parameters: Number of parameters of the model.
        trained: Number of trainable parameters.
        steps: Number of steps that were measured with probes, and as many without.
    """

    recipe: str
    is_drawn: bool
    device: str
    machine: str
    precision: str
    best_precision: str
    threads: int
    cores: int
    workers: int
    batch_size: int
    accumulation: int
    image_size: tuple[int, int]
    parameters: int
    trained: int
    steps: int


@dataclass(frozen=True)
class StepProfile:
    """Profile of a training step.

    Attributes:
        conditions: Conditions of the measurement.
        seconds: Median seconds of a step without probes, waiting for data included.
        probed_seconds: Median seconds of a step with probes; the two kinds of steps alternate.
        parts: Parts in the order of the step; they sum to the probed steps.
        operators: Statistics of the operators, most expensive first.
        reading: Time that a loader worker needs per image; None for synthetic images.
        memory: Peak memory.
    """

    conditions: ProfileConditions
    seconds: float
    probed_seconds: float
    parts: tuple[StepPart, ...]
    operators: tuple[OperatorStats, ...]
    reading: ReadingCost | None
    memory: MemoryUsage

    def sum_shares(self, *prefixes: str) -> float:
        """Return the share of the step, 0..1, of all parts whose names start with a prefix."""
        return sum(part.share for part in self.parts if part.name.startswith(prefixes))

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON-compatible values, with the 50 most expensive operators."""
        values = asdict(self)
        values["operators"] = values["operators"][:50]
        return values


def profile_recipe(
    recipe: Recipe,
    *,
    steps: int = 8,
    warm_up: int = 3,
    synthetic: bool = False,
    data_root: Path | None = None,
    console: Console | None = None,
) -> StepProfile:
    """Profile training steps of a recipe, on a model that is discarded afterwards.

    The steps are those that `finetune` would take.

    Args:
        recipe: Recipe to measure.
        steps: Number of steps to measure with probes, and as many without.
        warm_up: Number of steps before the measurement.
        synthetic: Whether to use random images and weights instead of those of the recipe.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress; default: standard error.

    Raises:
        ResnetTasksError: If the recipe, the data or the weights are invalid.
        MemoryLimitError: If memory runs out.
    """
    if steps < 1 or warm_up < 1:
        raise RunError(
            f"benchmark: steps is {steps} and warm-up is {warm_up}; both must be at least 1"
        )
    setup = TrainingSetup.from_recipe(
        recipe, purpose="synthetic" if synthetic else "trial", data_root=data_root
    )
    trial = TrialTraining(
        setup.model, setup.samples, recipe.training, workers=recipe.data.num_workers
    )
    measured = _measure_steps(trial, steps, warm_up, console or Console(stderr=True))
    seconds, timeline, operators, memory = measured
    return StepProfile(
        conditions=_describe_conditions(recipe, trial, steps, is_drawn=synthetic),
        seconds=median(seconds),
        probed_seconds=median(sum(step.values()) for step in timeline.steps),
        parts=summarize_parts(timeline.steps),
        operators=tuple(operators),
        reading=None if synthetic else measure_reading_cost(setup.samples),
        memory=memory,
    )


def summarize_parts(steps: Sequence[dict[str, float]]) -> tuple[StepPart, ...]:
    """Return the median and the share of every part, in the order of a step.

    Args:
        steps: Part -> seconds, one mapping per step.
    """
    names = sorted({name: 0 for step in steps for name in step}, key=find_order_index)
    total = sum(sum(step.values()) for step in steps)
    return tuple(
        StepPart(
            name,
            median(step.get(name, 0.0) for step in steps),
            sum(step.get(name, 0.0) for step in steps) / total,
        )
        for name in names
    )


def _measure_steps(
    trial: TrialTraining, steps: int, warm_up: int, console: Console
) -> tuple[list[float], Timeline, list[OperatorStats], MemoryUsage]:
    """Measure steps with and without probes, then memory, then operators.

    Returns:
        Seconds of the steps without probes, the timeline of the steps with probes, statistics of
        the operators, and peak memory.
    """
    train_step, device = trial.train_step, trial.train_step.device
    groups = trial.iter_batches()
    plain, timeline, recorder = list[float](), Timeline(device), Timeline(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    total = warm_up + 2 * steps + 1 + PROFILED_STEPS
    with (
        trial.enter_training_mode(),
        closing(groups),
        track_progress(console, "Measuring steps", total) as advance,
    ):
        for number in range(warm_up + steps):
            # The two kinds alternate, so that a drift in the machine's speed affects both equally.
            seconds = time_plain_step(trial, groups)
            advance()
            if number >= warm_up:
                plain.append(seconds)
                with attach_probes(train_step, timeline):
                    run_timed_step(trial, groups, timeline)
                advance()
        # Must be read here: `_measure_step_bytes` resets the peak of the GPU, and torch's profiler
        # itself allocates memory.
        reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
        process = measure_peak_rss()
        memory = MemoryUsage(
            process, _measure_step_bytes(trial, groups), reserved, _get_total_memory(device)
        )
        advance()

        def run_recorded_step() -> None:
            run_timed_step(trial, groups, recorder)
            advance()

        with attach_probes(train_step, recorder):
            operators = profile_operators(run_recorded_step, PROFILED_STEPS, device)
    return plain, timeline, operators, memory


def time_plain_step(trial: TrialTraining, groups: Iterator[list[Batch]]) -> float:
    """Take one step without probes; return its seconds, waiting for data included."""
    started = time.perf_counter()
    trial.run_step(next(groups))
    trial.synchronize()
    return time.perf_counter() - started


def run_timed_step(trial: TrialTraining, groups: Iterator[list[Batch]], timeline: Timeline) -> None:
    """Take one step and record its parts on a timeline; call it inside `attach_probes`."""
    timeline.begin_step()
    with timeline.record_part(DATA):
        group = next(groups)
    trial.run_step(copy_to_device(timeline, group, trial.train_step.device))
    timeline.end_step()


def _measure_step_bytes(trial: TrialTraining, groups: Iterator[list[Batch]]) -> int:
    group = next(groups)
    return measure_peak_bytes(lambda: trial.run_step(group), trial.train_step.device)


def _get_total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def _describe_conditions(
    recipe: Recipe, trial: TrialTraining, steps: int, *, is_drawn: bool
) -> ProfileConditions:
    device, model = trial.train_step.device, trial.train_step.model
    is_cuda = device.type == "cuda"
    return ProfileConditions(
        recipe=recipe.name,
        is_drawn=is_drawn,
        device=device.type,
        machine=torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "CPU",
        precision=trial.train_step.precision,
        best_precision=resolve_precision("auto", device),
        threads=torch.get_num_threads(),
        cores=count_usable_cores(),
        workers=trial.batches.workers,
        batch_size=trial.options.batch_size,
        accumulation=trial.options.accumulation,
        image_size=trial.image_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(
            parameter.numel() for parameter in model.parameters() if parameter.requires_grad
        ),
        steps=steps,
    )
