"""Files of a step whose loss or gradient was not finite.

RUN/replays/update-N   model.safetensors   weights and buffers before the step
                       batch.safetensors   images and targets of its batches
                       replay.json         seeds, settings, image ids, losses of the step
                       recipe.yaml, classes.json, plugins/   copies from the run, if it has them
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from resnet_tasks.files.atomic import make_folder, make_write_error, write_json
from resnet_tasks.model import TaskModel
from resnet_tasks.run_folder.checkpoint import load_weights_file
from resnet_tasks.run_folder.files import REPLAY, REPLAY_BATCH
from resnet_tasks.run_folder.read import make_damage_error, read_object
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.samples import Batch
from resnet_tasks.structures.targets import Target

FIELDS = ("boxes", "labels", "ignore", "semantic", "image_labels", "unannotated")
MASK_FIELDS = ("windows", "pixels", "annotated")
MAX_REPLAYS = 3
"""Maximum number of replays that a run saves: each takes as much disk space as the model."""


@dataclass
class RecordedStep:
    """Record of everything besides weights and batches that affects a step's losses and gradients.

    The record is completed while the step runs.

    Attributes:
        update: Index of the step, from 0.
        seed: Seed of torch's generator before every batch.
        precision: `fp32`, `bf16` or `fp16`.
        deterministic: Whether deterministic algorithms were enabled.
        threads: Number of torch threads of the process.
        counts: Loss term -> divisor, one mapping per batch so far.
        losses: `head/term` -> mean over the last batch, in this process.
        trouble: Message of the error; empty if all values of this process are finite.
        frozen: Names of the parameters that were not trained.
        weights: Head -> weight of its loss from `training.balancing`.
    """

    update: int
    seed: int
    precision: str
    deterministic: bool
    threads: int
    counts: list[dict[str, float]] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    trouble: str = ""
    frozen: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


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
    write_json(folder / "replay.json", REPLAY.add_version({**step_fields, "batches": records}))
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
        by_name = {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
        extra = {name[6:]: t for name, t in by_name.items() if name.startswith("extra.")}
        fields = {name: tensor for name, tensor in by_name.items() if name in FIELDS}
        masks = {
            name: by_name[f"masks.{name}"] for name in MASK_FIELDS if f"masks.{name}" in by_name
        }
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
        RunError: If the folder has no replay, a damaged one or one of a newer version.
    """
    file = folder / "replay.json" if folder.is_dir() else folder
    contents = read_object(file, REPLAY)
    values = {name: contents[name] for name in RecordedStep.__dataclass_fields__}
    try:
        values["losses"] = {name: float(text) for name, text in contents["losses"].items()}
    except ValueError as error:
        raise make_damage_error(file, REPLAY, str(error)) from None
    batch_file = file.parent / REPLAY_BATCH.name.rpartition("/")[2]
    tensors = load_weights_file(batch_file, REPLAY_BATCH)
    try:
        batches = [
            _batch_from_record(record, str(i), tensors)
            for i, record in enumerate(contents["batches"])
        ]
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = f"its tensors do not fit {file.name}: {error!r}"
        raise make_damage_error(batch_file, REPLAY_BATCH, reason) from None
    return RecordedStep(**values), batches
