"""Weights in folders: runs of this package, their checkpoints, and saved hub repositories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.files.json_files import read_configuration
from resnet_tasks.run_folder.checkpoint import (
    CHECKPOINTS,
    HEAD_CHECKPOINT,
    find_averaged_file,
    require_weights_version,
)
from resnet_tasks.run_folder.log import find_first_start
from resnet_tasks.run_folder.recipe_settings import read_backbone_settings

FILES = ("ema.safetensors", "model.safetensors", "pytorch_model.bin")
"""Names of weight files, best first: averaged (EMA) weights are preferred if a run has them."""


@dataclass(frozen=True)
class FolderWeights:
    """A file of weights with the properties that its folder states.

    Attributes:
        file: Path of the weights.
        source: Readable description of the origin of the weights.
        license: License as the run or its `config.json` states it.
        backbone: Name of the variant; None if the folder does not state it.
        settings: Recipe settings that select this backbone; empty if the folder does not state it.
        mean: Mean per channel, 0..1; None if the folder does not state it.
        std: Standard deviation per channel, 0..1; None if the folder does not state it.
    """

    file: Path
    source: str
    license: str
    backbone: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    settings: str = ""


def split_checkpoint(spec: str) -> tuple[Path, str]:
    """Split `RUN` (its last checkpoint) or `RUN@best` into run folder and checkpoint name."""
    spec_path = Path(spec).expanduser()
    base, at, checkpoint = spec.rpartition("@")
    if at and not spec_path.exists():
        return Path(base).expanduser(), checkpoint
    return spec_path, "last"


def find_in_folder(request: WeightsRequest, folder: Path, checkpoint: str) -> FolderWeights:
    """Find the weights in a folder.

    Args:
        request: User request that error messages quote.
        folder: Run folder, one of its checkpoints, or a repository saved with `config.json`.
        checkpoint: Checkpoint of a run to use: `last` or `best`.

    Raises:
        DataError: If `config.json` is damaged.
        RecipeError: If the recipe of the run is damaged.
        RunError: If a file of the run is damaged, or the averaged weights are missing.
        WeightsError: If the folder holds no weights.
    """
    if (folder / "recipe.yaml").exists():
        return _find_in_run(request, folder, checkpoint)
    file = _find_file(folder)
    if file is None:
        raise WeightsError(
            f"{request} is a folder with neither recipe.yaml (a run) nor {', '.join(FILES)}; name "
            "a run folder or a file of weights"
        )
    run = find_run(file)
    if run is not None:
        return _make_run_weights(run, file, str(file))
    config = read_configuration(folder / "config.json")
    inner = config.get("pretrained_cfg")
    metadata = {**config, **(inner if isinstance(inner, dict) else {})}
    license_name = str(metadata.get("license") or "not stated (local folder)")
    mean, std = (_to_floats(metadata.get(key)) for key in ("mean", "std"))
    return FolderWeights(file, str(file), license_name, None, mean, std)


def _find_file(folder: Path) -> Path | None:
    """Return the path of the weights in a folder, None if it has none.

    Raises:
        RunError: If the folder lacks its averaged weights.
    """
    files = [folder / name for name in FILES if (folder / name).exists()]
    return (find_averaged_file(folder) or files[0]) if files else None


def _find_in_run(request: WeightsRequest, folder: Path, checkpoint: str) -> FolderWeights:
    if checkpoint not in CHECKPOINTS and not checkpoint.startswith(HEAD_CHECKPOINT):
        raise WeightsError(
            f"{request}: a run keeps the checkpoints {' and '.join(CHECKPOINTS)}, not "
            f"{checkpoint!r}; write {folder} or {folder}@best (or {folder}@{HEAD_CHECKPOINT}HEAD "
            "for a run with evaluation.best_per_head)"
        )
    # A run killed between the two renames of a save leaves only the complete previous checkpoint.
    for name in (checkpoint, f"{checkpoint}.previous"):
        file = _find_file(folder / "checkpoints" / name)
        if file is not None:
            break
    else:
        raise WeightsError(
            f"{request}: the run has no checkpoint {checkpoint} yet; train the run further, or "
            "name another checkpoint"
        )
    averaged = ", averaged weights" if file.name == FILES[0] else ""
    return _make_run_weights(folder, file, f"run {folder} ({checkpoint}{averaged})")


def find_run(file: Path) -> Path | None:
    """Return the run folder whose checkpoint `file` is; None if it is not part of a run."""
    places = file.absolute().parents
    if len(places) < 3 or places[1].name != "checkpoints":
        return None
    return places[2] if (places[2] / "recipe.yaml").exists() else None


def _make_run_weights(run: Path, file: Path, source: str) -> FolderWeights:
    if file.suffix == ".safetensors":
        require_weights_version(file)
    backbone = read_backbone_settings(run / "recipe.yaml")
    name, layers = backbone["name"], backbone.get("layers")
    settings = f"backbone.name={name}"
    if layers:
        blocks = ",".join(map(str, layers))
        settings += f" backbone.layers=[{blocks}] backbone.block={backbone.get('block')}"
    return FolderWeights(file, source, read_license(run), name, settings=settings)


def read_license(run: Path) -> str:
    """Read the license of the weights that a run started from; training adds no other license.

    Raises:
        RunError: If the log of the run is damaged.
    """
    log = run / "log.jsonl"
    if not log.exists():
        return "not stated (run without log.jsonl)"
    start = find_first_start(log)
    if start is None:
        return "not stated (log.jsonl does not name the initial weights)"
    weights = start["weights"]
    return str(weights["license"]) if weights else "your own (trained from random weights)"


def _to_floats(value: Any) -> tuple[float, ...] | None:
    if (
        isinstance(value, list)
        and value
        and all(isinstance(number, (int, float)) for number in value)
    ):
        return tuple(map(float, value))
    return None
