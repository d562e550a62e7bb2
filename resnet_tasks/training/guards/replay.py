"""Saving and replaying of steps whose loss or gradient was not finite.

RUN/replays/update-N   model.safetensors   weights and buffers before the step
                       batch.safetensors   images and targets of its batches
                       replay.json         seeds, settings, image ids, losses of the step
                       recipe.yaml, classes.json, plugins/   copies from the run, if it has them
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from resnet_tasks.assemble.model import build_model
from resnet_tasks.errors import RunError
from resnet_tasks.files.atomic import make_folder, make_write_error, write_json
from resnet_tasks.model import TaskModel
from resnet_tasks.runs.checkpoint import load_weights_file, load_weights_into
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch
from resnet_tasks.structures.targets import Target
from resnet_tasks.training.state.loss_reduction import LossModule, compute_means
from resnet_tasks.training.state.precision import create_accelerator, use_deterministic_algorithms

FORMAT = 1
FIELDS = ("boxes", "labels", "ignore", "semantic", "image_labels", "unannotated")
MASK_FIELDS = ("windows", "pixels", "annotated")
MAX_REPLAYS = 3
"""Maximum number of replays that a run saves: each takes as much disk space as the model."""


@dataclass(frozen=True)
class RecordedStep:
    """Record of everything besides weights and batches that decides a step's losses and gradients.

    Attributes:
        update: Index of the step, from 0.
        seed: Seed of torch's generator before every batch.
        precision: `fp32`, `bf16` or `fp16`.
        deterministic: Whether deterministic algorithms were enabled.
        threads: Number of torch threads of the process.
        counts: Loss term -> divisor, one mapping per batch.
        losses: `head/term` -> mean over the batch with the value that is not finite.
        trouble: Message of the error.
        frozen: Names of the parameters that were not trained.
        weights: Head -> weight of its loss from `training.balancing`.
    """

    update: int
    seed: int
    precision: str
    deterministic: bool
    threads: int
    counts: list[dict[str, float]]
    losses: dict[str, float]
    trouble: str
    frozen: list[str]
    weights: dict[str, float] = field(default_factory=dict)


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


def write_replay(
    run: Path, name: str, model: TaskModel, batches: Sequence[Batch], step: RecordedStep
) -> Path | None:
    """Save a step under `run/replays`.

    Args:
        run: Path of the run folder.
        name: Name of the replay folder, `update-N` or `update-N-process-K`.
        model: Model with the weights and buffers before the step.
        batches: Batches of the step in this process.
        step: Record of the step.

    Returns:
        Path of the replay folder; None if the run already has `MAX_REPLAYS` replays.

    Raises:
        RunError: If the files cannot be written.
    """
    folder = run / "replays" / name
    if not folder.exists() and len(list(folder.parent.glob("update-*"))) >= MAX_REPLAYS:
        return None
    make_folder(folder)
    tensors: dict[str, Tensor] = {}
    try:
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        save_file(
            {name: tensor.contiguous() for name, tensor in weights.items()},
            folder / "model.safetensors",
        )
        records = [_batch_to_record(batch, str(i), tensors) for i, batch in enumerate(batches)]
        save_file(tensors, folder / "batch.safetensors")
        for file_name in ("recipe.yaml", "classes.json"):
            if (run / file_name).is_file():
                shutil.copyfile(run / file_name, folder / file_name)
        if (run / "plugins").is_dir():
            shutil.copytree(run / "plugins", folder / "plugins", dirs_exist_ok=True)
    except OSError as error:
        raise make_write_error(folder, error) from None
    step_fields = asdict(step)
    # JSON has no nan and inf, so the losses are written as strings.
    step_fields["losses"] = {name: str(value) for name, value in step.losses.items()}
    write_json(folder / "replay.json", {"format": FORMAT, **step_fields, "batches": records})
    return folder


def _batch_to_record(batch: Batch, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return a batch as JSON-compatible values; add its tensors to `tensors`.

    Args:
        batch: Batch of the step.
        prefix: Prefix of the tensors' names.
        tensors: Name -> tensor; updated.
    """
    tensors[f"{prefix}.images"] = batch.images.detach().cpu().contiguous()
    for i, target in enumerate(batch.targets):
        fields = {name: getattr(target, name) for name in FIELDS}
        extra = {f"extra.{name}": value for name, value in target.extra.items()}
        if target.masks is not None:
            fields |= {f"masks.{name}": getattr(target.masks, name) for name in MASK_FIELDS}
        for name, value in {**fields, **extra}.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}.{i}.{name}"] = value.detach().cpu().contiguous()
    return {
        "geometries": [asdict(geometry) for geometry in batch.geometries],
        "image_ids": list(batch.image_ids),
        "file_names": list(batch.file_names),
        "seeds": list(batch.seeds),
    }


def _batch_from_record(
    record: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]
) -> Batch:
    targets = []
    for i in range(len(record["image_ids"])):
        start = f"{prefix}.{i}."
        own = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
        extra = {name[6:]: t for name, t in own.items() if name.startswith("extra.")}
        fields = {name: tensor for name, tensor in own.items() if name in FIELDS}
        masks = {name: own[f"masks.{name}"] for name in MASK_FIELDS if f"masks.{name}" in own}
        targets.append(
            Target(**fields, masks=InstanceMasks(**masks) if masks else None, extra=extra)
        )
    images = tensors[f"{prefix}.images"].contiguous(memory_format=torch.channels_last)
    return Batch(
        images=images,
        geometries=tuple(
            Geometry(**{name: tuple(value) for name, value in geometry.items()})
            for geometry in record["geometries"]
        ),
        image_ids=tuple(record["image_ids"]),
        file_names=tuple(record["file_names"]),
        targets=tuple(targets),
        seeds=tuple(record["seeds"]),
    )


def read_replay(folder: Path) -> tuple[RecordedStep, list[Batch]]:
    """Read a step and its batches.

    Args:
        folder: Path of the replay folder, or of its `replay.json`.

    Raises:
        RunError: If the folder has no replay, or one of another format version.
    """
    file = folder / "replay.json" if folder.is_dir() else folder
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
        records = contents.pop("batches")
        if contents.pop("format") != FORMAT:
            raise RunError(
                f"{file} was written by another version; this version reads only format {FORMAT}"
            )
        contents["losses"] = {name: float(value) for name, value in contents["losses"].items()}
        step = RecordedStep(**contents)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{folder} is not a replay ({error}); give a folder below RUN/replays, as named in the "
            "error message about the non-finite loss"
        ) from None
    tensors = load_weights_file(file.parent / "batch.safetensors")
    return step, [_batch_from_record(record, str(i), tensors) for i, record in enumerate(records)]


def replay(folder: Path, *, model: TaskModel | None = None, run: Run | None = None) -> ReplayResult:
    """Replay a saved step from its weights, batches and seeds, without the optimizer's step.

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
    load_weights_into(model, load_weights_file(folder / "model.safetensors"), folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in step.frozen)
    for name, weight in step.weights.items():
        model.loss_weights[name] *= weight
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = create_accelerator(step.precision, device, find_unused=False)
    prepared = precision.prepare(LossModule(model).to(device))
    model.train()
    with use_deterministic_algorithms(step.deterministic and device.type == "cpu"):
        losses = _backward(prepared, model, batches, step)
    images = tuple(
        f"{image_id} ({name})"
        for batch in batches
        for image_id, name in zip(batch.image_ids, batch.file_names, strict=True)
    )
    return ReplayResult(step, losses, compute_gradient_norms(model), images)


def _backward(
    prepared: Any, model: TaskModel, batches: Sequence[Batch], step: RecordedStep
) -> dict[str, float]:
    """Accumulate the gradients of the batches, up to the first whose loss is not finite.

    Returns:
        `head/term` -> mean over the last batch.
    """
    mean_losses: dict[str, float] = {}
    for batch, counts in zip(batches, step.counts, strict=False):
        torch.manual_seed(step.seed)
        losses, anchor, _ = prepared(batch.to(model.device))
        sums = {name: term.sum.item() for name, term in losses.items()}
        mean_losses = compute_means(
            sums, {name: term.count.item() for name, term in losses.items()}
        )
        loss_terms = {
            name: LossTerm(term.sum, torch.full_like(term.count, counts[name]))
            for name, term in losses.items()
        }
        if loss_terms:
            (model.compute_total_loss(loss_terms) + anchor).backward()
        if not all(map(math.isfinite, mean_losses.values())):
            break
    return mean_losses


def compute_gradient_norms(model: TaskModel) -> dict[str, float]:
    """Return the L2 norm of the gradient of every part: modules of the backbone, and heads."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = ".".join(name.split(".")[:2])
            own = parameter.grad.double().square().sum().item()
            squares[part] = squares.get(part, 0.0) + own
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
            f"note: recorded with {step.threads} threads, repeated with "
            f"{torch.get_num_threads()}; the last digits may differ"
        )
    verdict = (
        "a value is not finite again" if result.is_non_finite else "all values are finite this time"
    )
    console.print(verdict)
