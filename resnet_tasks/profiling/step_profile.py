"""Where the time of a training step goes, by part and by operator, and what memory it takes."""

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
from rich.console import Console
from torch.utils.data import Dataset

from resnet_tasks.assemble.training_setup import build_training_setup
from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.profiling.data_loading_cost import ReadingCost, measure_reading_cost
from resnet_tasks.profiling.dry_run import measure_peak_rss
from resnet_tasks.profiling.operator_profile import OperatorStats, profile_operators
from resnet_tasks.profiling.synthetic_samples import build_synthetic_setup
from resnet_tasks.profiling.timeline import (
    DATA,
    RecordingTimeline,
    Timeline,
    attach_probes,
    copy_to_device,
    find_order_index,
)
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.model_cost import measure_peak_bytes
from resnet_tasks.runtime.cpu_count import count_usable_cores
from resnet_tasks.runtime.devices import resolve_precision
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.structures.samples import Batch, Sample

PROFILED_STEPS = 2
"""Steps under torch's profiler."""


@dataclass(frozen=True)
class StepPart:
    """A part of the step.

    Attributes:
        name: As in `timeline`.
        seconds: Median over the measured steps.
        share: Of the time of all measured steps; those of all parts sum to 1.
    """

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class MemoryUsage:
    """Bytes.

    Attributes:
        process: The most that this process ever held, whatever for.
        step: The most that the tensors of a step took at once, beside what stays between steps; on
            a GPU as its allocator counts them.
        device: Of the GPU, the most that was reserved; None on a CPU.
        total: Of the GPU, or of the machine.
    """

    process: int
    step: int
    device: int | None
    total: int


@dataclass(frozen=True)
class ProfileConditions:
    """Under which a step was measured.

    Attributes:
        recipe: Its name.
        is_drawn: Whether images and annotations were drawn at random.
        device: `cpu` or `cuda`.
        machine: For people.
        precision: `fp32`, `bf16` or `fp16`.
        best_precision: What `training.precision: auto` would choose here.
        threads: Of torch in this process.
        cores: That this process may use.
        workers: Loader processes.
        batch_size: Images at a time.
        accumulation: Batches per step.
        image_size: (H, W) of the last batch.
        parameters: Of the model.
        trained: Of them.
        steps: That were measured.
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
    """What was measured.

    Attributes:
        conditions: How.
        seconds: Median of steps without probes, waiting for data included.
        probed_seconds: Median of steps with probes; the two kinds took turns.
        parts: In the order of the step; they sum to the probed steps.
        operators: Most expensive first.
        reading: What an image costs a loader process; None of drawn ones.
        memory: At the most.
    """

    conditions: ProfileConditions
    seconds: float
    probed_seconds: float
    parts: tuple[StepPart, ...]
    operators: tuple[OperatorStats, ...]
    reading: ReadingCost | None
    memory: MemoryUsage

    def sum_shares(self, *prefixes: str) -> float:
        """Of the time of the step, what parts took whose names start so."""
        return sum(part.share for part in self.parts if part.name.startswith(prefixes))

    def to_json(self) -> dict[str, Any]:
        """As plain values; of operators the 50 most expensive."""
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
    """Takes steps of a recipe's training as `finetune` would, on a model that is thrown away.

    Args:
        recipe: Whose step is measured.
        steps: Measured with probes, and as many without.
        warm_up: Steps before that.
        synthetic: Measure drawn images and random weights in place of the recipe's own.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: For progress.

    Raises:
        ResnetTasksError: If recipe, data or weights are wrong.
        MemoryLimitError: If memory does not suffice.
    """
    if steps < 1 or warm_up < 1:
        raise RunError(
            f"benchmark: {steps} steps after {warm_up} of warm-up measure nothing; give at least 1 "
            "of each"
        )
    model, samples = (
        build_synthetic_setup(recipe)
        if synthetic
        else build_training_setup(recipe, data_root, measure=False)
    )
    trial = create_trial(recipe, model, samples)
    measured = _measure_steps(trial, steps, warm_up, console or Console(stderr=True))
    seconds, timeline, operators, memory = measured
    return StepProfile(
        conditions=_describe_conditions(recipe, trial, steps, is_drawn=synthetic),
        seconds=median(seconds),
        probed_seconds=median(sum(step.values()) for step in timeline.steps),
        parts=summarize_parts(timeline.steps),
        operators=tuple(operators),
        reading=None if synthetic else measure_reading_cost(samples),
        memory=memory,
    )


def create_trial(recipe: Recipe, model: TaskModel, samples: Dataset[Sample]) -> TrialTraining:
    """The training whose steps are measured.

    Args:
        recipe: Whose step it is.
        model: Is trained a little.
        samples: To learn from.
    """
    workers = None if recipe.data.workers == "auto" else recipe.data.workers
    return TrialTraining(model, samples, recipe.training, workers=workers)


def summarize_parts(steps: Sequence[dict[str, float]]) -> tuple[StepPart, ...]:
    """Medians of the parts, in the order of the steps, and their shares of all time.

    Args:
        steps: For each: part -> seconds.
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
    """Seconds of plain steps, the timeline of probed ones, operators, and memory."""
    train_state, device = trial.train_state, trial.train_state.device
    groups = trial.iter_batches()
    plain, timeline, recorder = list[float](), Timeline(device), RecordingTimeline(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    total = warm_up + 2 * steps + 1 + PROFILED_STEPS
    with (
        trial.enter_training_mode(),
        closing(groups),
        track_progress(console, "Measuring steps", total) as advance,
    ):
        for number in range(warm_up + steps):
            seconds = time_plain_step(trial, groups)
            advance()
            if number >= warm_up:
                plain.append(seconds)
                with attach_probes(train_state, timeline):
                    run_timed_step(trial, groups, timeline)
                advance()
        reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
        process = measure_peak_rss()
        memory = MemoryUsage(
            process, _measure_step_bytes(trial, groups), reserved, _get_total_memory(device)
        )
        advance()

        def run_recorded_step() -> None:
            run_timed_step(trial, groups, recorder)
            advance()

        with attach_probes(train_state, recorder):
            operators = profile_operators(run_recorded_step, PROFILED_STEPS, device)
    return plain, timeline, operators, memory


def time_plain_step(trial: TrialTraining, groups: Iterator[list[Batch]]) -> float:
    """One step as it is; its seconds, the wait for its data included."""
    started = time.perf_counter()
    trial.run_step(next(groups))
    trial.synchronize()
    return time.perf_counter() - started


def run_timed_step(trial: TrialTraining, groups: Iterator[list[Batch]], timeline: Timeline) -> None:
    """One step whose parts a timeline is told of; `probed` must hold."""
    timeline.begin_step()
    with timeline.record_part(DATA):
        group = next(groups)
    trial.run_step(copy_to_device(timeline, group, trial.train_state.device))
    timeline.end_step()


def _measure_step_bytes(trial: TrialTraining, groups: Iterator[list[Batch]]) -> int:
    group = next(groups)
    return measure_peak_bytes(lambda: trial.run_step(group), trial.train_state.device)


def _get_total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def _describe_conditions(
    recipe: Recipe, trial: TrialTraining, steps: int, *, is_drawn: bool
) -> ProfileConditions:
    device, model = trial.train_state.device, trial.train_state.plain_model
    is_cuda = device.type == "cuda"
    return ProfileConditions(
        recipe=recipe.name,
        is_drawn=is_drawn,
        device=device.type,
        machine=torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "CPU",
        precision=trial.train_state.precision,
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
