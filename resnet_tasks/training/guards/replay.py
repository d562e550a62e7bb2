"""Replay of steps whose loss or gradient was not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from resnet_tasks.assemble.model import build_model
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import load_weights_file, load_weights_into
from resnet_tasks.run_folder.files import REPLAY_WEIGHTS
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.training.guards.recorded_step import RecordedStep, read_replay
from resnet_tasks.training.state.loss_reduction import BatchReport
from resnet_tasks.training.state.progress import RunLength
from resnet_tasks.training.train_step import TrainStep


@dataclass(frozen=True)
class ReplayResult:
    """Result of a replayed step.

    Attributes:
        step: Record of the original step.
        losses: `head/term` -> mean over the last replayed batch.
        norms: Part of the model -> L2 norm of its gradient; empty without a backward pass.
        images: "id (file)" of every image.
    """

    step: RecordedStep
    losses: dict[str, float]
    norms: dict[str, float]
    images: tuple[str, ...]

    @property
    def is_non_finite(self) -> bool:
        """True if a loss or gradient is not finite in the replay too."""
        return not all(map(math.isfinite, (*self.losses.values(), *self.norms.values())))


def replay(folder: Path, *, model: TaskModel | None = None, run: Run | None = None) -> ReplayResult:
    """Replay the losses and gradients of a saved step from its weights, batches and seeds.

    Args:
        folder: Path of a folder under `RUN/replays`, or of a file in it.
        model: Model of the run, with any weights; default: built from the recipe of `run`.
        run: Replay folder opened as a run; default: opened here, without plugins.

    Raises:
        RunError: If the folder has no replay, or it has no recipe and `model` is None.
    """
    folder = folder if folder.is_dir() else folder.parent
    step, batches = read_replay(folder)
    device = torch.device("cpu") if model is None else model.device
    if model is None:
        run = run or Run.open(folder)
        model = build_model(run.recipe, run.labels, weights="unloaded")
        device = resolve_device(run.recipe.training.device)
    weights = load_weights_file(folder / "model.safetensors", REPLAY_WEIGHTS)
    load_weights_into(model, weights, folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in step.frozen)
    for name, weight in step.weights.items():
        model.loss_weights[name] *= weight
    options = TrainingRecipe(
        precision=step.precision, deterministic=step.deterministic, device=str(device)
    )
    train_step = TrainStep(model, options, RunLength(1, 1, 1))
    train_step.accelerator.scaler = None  # its scale is not recorded, and another may overflow
    train_step.loss_module.train()
    means: dict[str, float] = {}
    with train_step.make_deterministic():
        for batch, counts in zip(batches, step.counts, strict=False):
            outputs = train_step.compute_losses(batch.to(device), step.seed)
            report = BatchReport.from_losses(outputs[0], batch, stop=False)
            means = report.means
            train_step.backward(outputs, counts, 1 / len(batches))
            if report.trouble:
                break
    images = tuple(
        f"{image_id} ({name})"
        for batch in batches
        for image_id, name in zip(batch.image_ids, batch.file_names, strict=True)
    )
    return ReplayResult(step, means, compute_gradient_norms(model), images)


def compute_gradient_norms(model: TaskModel) -> dict[str, float]:
    """Return the L2 norm of the gradient of every part: modules of the backbone, and heads."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = ".".join(name.split(".")[:2])
            square = parameter.grad.double().square().sum().item()
            squares[part] = squares.get(part, 0.0) + square
    return {part: math.sqrt(value) for part, value in squares.items()}


def print_replay(result: ReplayResult, console: Console) -> None:
    """Print original and replayed losses, gradient norms, and whether a value is not finite."""
    step = result.step
    table = Table("loss", "then", "now", title=f"update {step.update}, {step.precision}")
    for name in sorted(step.losses.keys() | result.losses.keys()):
        then, now = (losses.get(name, math.nan) for losses in (step.losses, result.losses))
        table.add_row(name, f"{then:.6g}", f"{now:.6g}")
    console.print(table)
    norms = Table("part", "gradient norm")
    for name, value in result.norms.items():
        norms.add_row(name, f"{value:.6g}")
    console.print(norms)
    console.print(f"images: {', '.join(result.images)}", highlight=False, markup=False)
    if step.threads != torch.get_num_threads():
        console.print(
            f"note: the step was recorded with {Count(step.threads):thread} and replayed with "
            f"{torch.get_num_threads()}; the last digits may differ"
        )
    verdict = (
        "a value is not finite again" if result.is_non_finite else "all values are finite this time"
    )
    console.print(verdict)
