"""A run in a process of its own that tells what it is at, so that it can be killed there."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch
from rich.console import Console

from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training import checkpointing as resuming
from resnet_tasks.training import validation
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.train_step import TrainStep

Marks = list[tuple[float, str]]
SETTINGS = (
    "backbone.name=resnet10t",
    "training.epochs=2",
    "training.evaluate_every=1",
    "training.batch_size=2",
    "training.accumulation=2",
    "training.precision=fp32",
    "training.device=cpu",
    "training.ema=0.5",
    "training.checkpoint_minutes=0.000001",
    "evaluation.resamples=0",
    "data.workers=1",
    "heads.objects.options.pyramid_channels=16",
    "heads.objects.options.box_head_channels=32",
)


def train(folder: Path, data: Path, resume: bool, marks: Connection) -> None:
    """Starts a run or goes on with it; sends a mark when a phase begins and when it ends."""
    torch.set_num_threads(1)

    def told(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            marks.send((monotonic(), phase))
            result = function(*arguments, **named)
            marks.send((monotonic(), "between"))
            return result

        return wrapped

    for owner, name, phase in (
        (TrainStep, "run", "step"),
        (validation, "evaluate", "evaluation"),
        (resuming, "save_checkpoint", "checkpoint"),
    ):
        setattr(owner, name, told(phase, getattr(owner, name)))
    quiet = Console(file=io.StringIO())
    if resume:
        recipe = load_recipe(folder / "recipe.yaml")
        finetune_recipe(recipe, resume=folder, data_root=data, console=quiet)
    else:
        recipe = load_recipe("quickstart", SETTINGS)
        finetune_recipe(recipe, out=folder, data_root=data, console=quiet)
    marks.send((monotonic(), "end"))


def start(folder: Path, data: Path) -> tuple[BaseProcess, Connection]:
    """A process that trains; it goes on where there is a checkpoint."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.killing"])
    here, there = context.Pipe(duplex=False)
    resume = (folder / "checkpoints").is_dir()
    process = context.Process(target=train, args=(folder, data, resume, there))
    process.start()
    there.close()
    return process, here


def until_end(process: BaseProcess, marks: Connection) -> Marks:
    """All marks of a process that ends by itself, or is dead."""
    seen: Marks = []
    try:
        while True:
            seen.append(marks.recv())
    except EOFError:
        pass
    process.join()
    return seen


def kill_in(
    process: BaseProcess, marks: Connection, phase: str, count: int, delay: float
) -> str | None:
    """Kills a process a while into its `count`-th `phase`; what it was at, None: ended by itself.

    It goes on while the clock runs, so that it may be at something else by then.
    """
    try:
        while count:
            count -= marks.recv()[1] == phase
    except EOFError:
        process.join()
        return None
    sleep(delay)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    rest = until_end(process, marks)
    return rest[-1][1] if rest else phase
