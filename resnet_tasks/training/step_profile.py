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

from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel, resolve_precision
from resnet_tasks.processors import usable_cores
from resnet_tasks.progress import bar
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.structures import Batch, Sample
from resnet_tasks.training.drawn_samples import drawn_parts
from resnet_tasks.training.dry_run import resident_peak
from resnet_tasks.training.operators import Operator, profile_operators
from resnet_tasks.training.price import peak_bytes
from resnet_tasks.training.reading_cost import ReadingCost, reading_cost
from resnet_tasks.training.rehearsal import Rehearsal
from resnet_tasks.training.timeline import DATA, Recorder, Timeline, copied, place_of, probed
from resnet_tasks.training.untrained import untrained

PROFILED = 2
"""Steps under torch's profiler."""


@dataclass(frozen=True)
class Part:
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
class Memory:
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
class Conditions:
    """Under which a step was measured.

    Attributes:
        recipe: Its name.
        is_drawn: Whether pictures and annotations were drawn at random.
        device: `cpu` or `cuda`.
        machine: For people.
        precision: `fp32`, `bf16` or `fp16`.
        best_precision: What `training.precision: auto` would choose here.
        threads: Of torch in this process.
        cores: That this process may use.
        workers: Loader processes.
        batch_size: Pictures at a time.
        accumulation: Batches per step.
        picture_size: (H, W) of the last batch.
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
    picture_size: tuple[int, int]
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
        reading: What a picture costs a loader process; None of drawn ones.
        memory: At the most.
    """

    conditions: Conditions
    seconds: float
    probed_seconds: float
    parts: tuple[Part, ...]
    operators: tuple[Operator, ...]
    reading: ReadingCost | None
    memory: Memory

    def share(self, *starts: str) -> float:
        """Of the time of the step, what parts took whose names start so."""
        return sum(each.share for each in self.parts if each.name.startswith(starts))

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
    drawn: bool = False,
    data_root: Path | None = None,
    console: Console | None = None,
) -> StepProfile:
    """Takes steps of a recipe's training as `finetune` would, on a model that is thrown away.

    Args:
        recipe: Whose step is measured.
        steps: Measured with probes, and as many without.
        warm_up: Steps before that.
        drawn: Measure drawn pictures and random weights in place of the recipe's own.
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
    model, samples = drawn_parts(recipe) if drawn else untrained(recipe, data_root, measured=False)
    work = profiled_work(recipe, model, samples)
    measured = _measure(work, steps, warm_up, console or Console(stderr=True))
    seconds, timeline, operators, memory = measured
    return StepProfile(
        conditions=_conditions(recipe, work, steps, is_drawn=drawn),
        seconds=median(seconds),
        probed_seconds=median(sum(each.values()) for each in timeline.steps),
        parts=parts_of_steps(timeline.steps),
        operators=tuple(operators),
        reading=None if drawn else reading_cost(samples),
        memory=memory,
    )


def profiled_work(recipe: Recipe, model: TaskModel, samples: Dataset[Sample]) -> Rehearsal:
    """The training whose steps are measured.

    Args:
        recipe: Whose step it is.
        model: Is trained a little.
        samples: To learn from.
    """
    workers = None if recipe.data.workers == "auto" else recipe.data.workers
    return Rehearsal(model, samples, recipe.training, workers=workers)


def parts_of_steps(steps: Sequence[dict[str, float]]) -> tuple[Part, ...]:
    """Medians of the parts, in the order of the steps, and their shares of all time.

    Args:
        steps: For each: part -> seconds.
    """
    names = sorted({name: 0 for step in steps for name in step}, key=place_of)
    total = sum(sum(step.values()) for step in steps)
    return tuple(
        Part(
            name,
            median(step.get(name, 0.0) for step in steps),
            sum(step.get(name, 0.0) for step in steps) / total,
        )
        for name in names
    )


def _measure(
    work: Rehearsal, steps: int, warm_up: int, console: Console
) -> tuple[list[float], Timeline, list[Operator], Memory]:
    """Seconds of plain steps, the timeline of probed ones, operators, and memory."""
    trainee, device = work.trainee, work.trainee.device
    groups = work.endless()
    plain, timeline, recorder = list[float](), Timeline(device), Recorder(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    total = warm_up + 2 * steps + 1 + PROFILED
    with work.begun(), closing(groups), bar(console, "Measuring steps", total) as advance:
        for number in range(warm_up + steps):
            seconds = plain_step(work, groups)
            advance()
            if number >= warm_up:
                plain.append(seconds)
                with probed(trainee, timeline):
                    timed_step(work, groups, timeline)
                advance()
        reserved = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None
        process = resident_peak()
        memory = Memory(process, _step_bytes(work, groups), reserved, _total_memory(device))
        advance()

        def recorded() -> None:
            timed_step(work, groups, recorder)
            advance()

        with probed(trainee, recorder):
            operators = profile_operators(recorded, PROFILED, device)
    return plain, timeline, operators, memory


def plain_step(work: Rehearsal, groups: Iterator[list[Batch]]) -> float:
    """One step as it is; its seconds, the wait for its data included."""
    started = time.perf_counter()
    work.learn(next(groups))
    work.synchronize()
    return time.perf_counter() - started


def timed_step(work: Rehearsal, groups: Iterator[list[Batch]], timeline: Timeline) -> None:
    """One step whose parts a timeline is told of; `probed` must hold."""
    timeline.begin()
    with timeline.part(DATA):
        group = next(groups)
    work.learn(copied(timeline, group, work.trainee.device))
    timeline.end()


def _step_bytes(work: Rehearsal, groups: Iterator[list[Batch]]) -> int:
    group = next(groups)
    return peak_bytes(lambda: work.learn(group), work.trainee.device)


def _total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def _conditions(recipe: Recipe, work: Rehearsal, steps: int, *, is_drawn: bool) -> Conditions:
    device, model = work.trainee.device, work.trainee.plain_model
    is_cuda = device.type == "cuda"
    return Conditions(
        recipe=recipe.name,
        is_drawn=is_drawn,
        device=device.type,
        machine=torch.cuda.get_device_name(device) if is_cuda else platform.processor() or "CPU",
        precision=work.trainee.precision,
        best_precision=resolve_precision("auto", device),
        threads=torch.get_num_threads(),
        cores=usable_cores(),
        workers=work.batches.workers,
        batch_size=work.options.batch_size,
        accumulation=work.options.accumulation,
        picture_size=work.picture_size,
        parameters=sum(each.numel() for each in model.parameters()),
        trained=sum(each.numel() for each in model.parameters() if each.requires_grad),
        steps=steps,
    )
