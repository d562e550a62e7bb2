"""Checkpoints that are complete or absent, and that are read without unpickling code."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from resnet_tasks.errors import RunError, get_first_line
from resnet_tasks.files.atomic import make_write_error, replace_folder, sync_file
from resnet_tasks.files.partial_paths import PREVIOUS_SUFFIX
from resnet_tasks.files.regular_files import require_regular_file
from resnet_tasks.files.torch_files import load_torch_file
from resnet_tasks.number_formats import Count
from resnet_tasks.run_folder.files import STATE, VERSION_KEY, WEIGHTS, RunFile
from resnet_tasks.run_folder.read import (
    MAX_VERSION,
    check_object,
    make_damage_error,
    make_read_error,
    require_known_version,
)

Weights = dict[str, Tensor]

CHECKPOINTS = ("last", "best")
"""Names of the checkpoints that every run can have."""
HEAD_CHECKPOINT = "best-"
"""Start of the names of the checkpoints with the best weights for one head."""

_AVERAGED_KEY = "averaged_weights"
"""Metadata key of `model.safetensors` that names the file of the averaged weights next to it."""
_AVERAGED_FILE = "ema.safetensors"

DAMAGED_WEIGHTS = (SafetensorError, OSError, LookupError, ValueError, TypeError)
"""Errors of the safetensors package on damaged files."""


def save_checkpoint(
    folder: Path,
    *,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and state into `folder` and replace its previous contents in one step.

    Args:
        folder: Path of the checkpoint folder. A kill at any moment leaves the old checkpoint, the
            new one, or the old one under the name that `load_checkpoint` falls back to.
        model: Weights that are being trained.
        ema: Averaged weights (exponential moving average); None if they are not kept.
        state: State of optimizer and progress; tensors, numbers, strings, lists and dicts only,
            because it is read back without unpickling code.

    Raises:
        RunError: If the disk is full or the folder no longer exists; the old checkpoint is kept.
    """
    previous = _get_previous_path(folder)
    try:
        # `find_checkpoint_folder` finds `previous` if the process is killed between two renames.
        remedy = "make sure that the run folder is writable"
        with replace_folder(folder, previous=previous, remedy=remedy) as partial:
            _write_files(partial, model, ema, state)
    except (OSError, SafetensorError, RuntimeError, RunError) as error:
        is_kept = has_checkpoint(folder)
        hint = "; the previous checkpoint is kept: resume from it with --resume" if is_kept else ""
        raise RunError(f"{_make_error(folder, error)}{hint}") from None


def _get_previous_path(folder: Path) -> Path:
    return folder.with_name(folder.name + PREVIOUS_SUFFIX)


def _make_error(folder: Path, error: Exception) -> RunError:
    if isinstance(error, RunError):
        return error
    if isinstance(error, RuntimeError):
        # torch.save reports a full disk as an error of its file format.
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return make_write_error(folder, error)


def _write_files(
    partial: Path,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    state: Mapping[str, Any] | None,
) -> None:
    metadata = {VERSION_KEY: str(WEIGHTS.version)}
    names = {} if ema is None else {_AVERAGED_KEY: _AVERAGED_FILE}
    save_file(_detach_weights(model), partial / "model.safetensors", metadata | names)
    _sort_metadata(partial / "model.safetensors")
    if ema is not None:
        save_file(_detach_weights(ema), partial / _AVERAGED_FILE, metadata)
    if state is not None:
        torch.save(STATE.add_version(state), partial / "state.pt")
    for file in partial.iterdir():
        sync_file(file)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, so that equal weights give files of equal bytes.

    The package writes the keys in random order. They and their values contain neither commas nor
    braces, and come first in the header.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length)
        start = header.index(b"{", header.index(b"{") + 1) + 1
        entries = header[start : header.index(b"}")].split(b",")
        file.seek(8 + start)
        file.write(b",".join(sorted(entries)))


def _detach_weights(weights: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def name_head_checkpoint(head: str) -> str:
    """Return the name of the checkpoint with the best weights for one head."""
    return f"{HEAD_CHECKPOINT}{head}"


def has_checkpoint(folder: Path) -> bool:
    """Return whether `folder` or its previous version exists."""
    return folder.exists() or _get_previous_path(folder).exists()


def find_checkpoint_folder(folder: Path) -> Path:
    """Return `folder`, or its previous version if `save_checkpoint` was killed between renames.

    Raises:
        RunError: If neither exists, or the folder lacks its weights.
    """
    previous = _get_previous_path(folder)
    for candidate in (folder, previous):
        if (candidate / "model.safetensors").exists():
            return candidate
    if folder.exists():
        raise RunError(f"{folder / 'model.safetensors'} does not exist; {WEIGHTS.remedy}")
    raise RunError(
        f"there is no checkpoint at {folder}; the run ended before it wrote one: start the run "
        "again"
    )


def load_weights_file(path: Path, file: RunFile = WEIGHTS) -> Weights:
    """Return the tensors of a safetensors file.

    Args:
        path: Path of the file.
        file: Description of the file.

    Raises:
        RunError: If the file is damaged or was written by a newer version.
    """
    require_weights_version(path, file)
    try:
        return load_file(path)
    except DAMAGED_WEIGHTS as error:
        raise _make_weights_error(path, file, error) from None


def require_weights_version(path: Path, file: RunFile = WEIGHTS) -> None:
    """Require that the header of a safetensors file is valid and no newer version wrote it.

    Raises:
        RunError: If the file is damaged or was written by a newer version.
    """
    try:
        version = _read_metadata(path).get(VERSION_KEY, "1")
    except DAMAGED_WEIGHTS as error:
        raise _make_weights_error(path, file, error) from None
    # Longer texts are damage; `int` refuses those of thousands of digits with another error.
    is_number = len(version) <= len(str(MAX_VERSION)) and version.isascii() and version.isdigit()
    require_known_version(int(version) if is_number else version, path, file)


def _read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, which must be a regular file.

    The package would wait for a writer of a pipe.
    """
    require_regular_file(path)
    with safe_open(path, "numpy") as tensors:
        return tensors.metadata() or {}


def _make_weights_error(path: Path, file: RunFile, error: Exception) -> RunError:
    """Return the error for a safetensors file that cannot be read."""
    if isinstance(error, OSError):
        try:  # the package reports every file that it cannot open as one that does not exist
            require_regular_file(path)
        except OSError as open_error:
            error = open_error
        return make_read_error(path, file, error)
    reason = get_first_line(error).removeprefix("Error while deserializing header: ")
    return make_damage_error(path, file, reason)


def load_weights_into(
    model: nn.Module, weights: Weights, folder: Path, *, kept: tuple[str, ...] = ()
) -> None:
    """Load a checkpoint's weights into the model of the run that wrote it.

    Args:
        model: Model that receives the weights.
        weights: Tensors of the checkpoint.
        folder: Path of the checkpoint, for the error message.
        kept: Prefixes of tensor names that the checkpoint lacks; these tensors keep their values.

    Raises:
        RunError: If the weights belong to another model.
    """
    state = model.state_dict()
    names = weights.keys() | {name for name in state if not name.startswith(kept)}
    mismatched = [
        name
        for name in sorted(names)
        if name not in state or name not in weights or state[name].shape != weights[name].shape
    ]
    if mismatched:
        raise RunError(
            f"the weights in {folder} are not those of the run's model: "
            f"{Count(len(mismatched)):tensor is} missing, unexpected or of another shape "
            f"({', '.join(mismatched[:3])}{', ...' if len(mismatched) > 3 else ''}); "
            "restore the checkpoint and recipe.yaml of the same run"
        )
    model.load_state_dict(weights, strict=False)


def find_weights_file(folder: Path) -> Path:
    """Return the path of the weights for prediction: the averaged weights if the run has them.

    Raises:
        RunError: If there is no checkpoint, its averaged weights are missing, or its weights are no
            regular file, such as a pipe.
    """
    checkpoint = find_checkpoint_folder(folder)
    file = find_averaged_file(checkpoint) or checkpoint / "model.safetensors"
    try:
        require_regular_file(file)
    except OSError as error:
        raise make_read_error(file, WEIGHTS, error) from None
    return file


def find_averaged_file(checkpoint: Path) -> Path | None:
    """Return the path of a checkpoint's averaged weights; None if its run averages no weights.

    Raises:
        RunError: If the file is missing.
    """
    file = checkpoint / _AVERAGED_FILE
    if file.exists():
        return file
    # Checkpoints of earlier versions do not name the file, but all checkpoints of a run have one.
    siblings = checkpoint.parent.glob(f"*/{_AVERAGED_FILE}")
    is_in_run = checkpoint.parent.name == "checkpoints"
    if _names_averaged_file(checkpoint / "model.safetensors") or (is_in_run and any(siblings)):
        raise RunError(
            f"{checkpoint} lacks {_AVERAGED_FILE}, the averaged weights that its run predicts "
            "with; restore the file from a copy, or use another checkpoint"
        )
    return None


def _names_averaged_file(path: Path) -> bool:
    """Return whether a weights file names a file of averaged weights; False if it is damaged."""
    try:
        return _AVERAGED_KEY in _read_metadata(path)
    except DAMAGED_WEIGHTS:
        return False


def load_model_weights(folder: Path) -> Weights:
    """Return the weights for prediction: the averaged weights if the run has them.

    Raises:
        RunError: If there is no checkpoint, or its weights are missing, damaged or not finite.
    """
    return _load_finite_weights(find_weights_file(folder))


def _load_finite_weights(path: Path) -> Weights:
    weights = load_weights_file(path)
    non_finite = [name for name, tensor in weights.items() if not _is_finite(tensor)]
    if non_finite:
        raise RunError(
            f"{path} has values that are not finite (NaN or infinity) in "
            f"{Count(len(non_finite)):tensor}, first {non_finite[0]}; use another checkpoint of "
            "the run, or train it again"
        )
    return weights


def _is_finite(tensor: Tensor) -> bool:
    values = tensor.float() if tensor.is_floating_point() and tensor.itemsize == 1 else tensor
    return bool(torch.isfinite(values).all())


def load_checkpoint(folder: Path) -> tuple[Weights, Weights | None, dict[str, Any]]:
    """Return everything that resuming needs: trained weights, averaged weights and state.

    Raises:
        RunError: If there is no checkpoint, its state cannot be read, or its weights are missing,
            damaged or not finite.
    """
    checkpoint = find_checkpoint_folder(folder)
    model = _load_finite_weights(checkpoint / "model.safetensors")
    ema = find_averaged_file(checkpoint)
    state = checkpoint / "state.pt"
    if not state.exists():
        is_last = folder.name == CHECKPOINTS[0]
        remedy = STATE.remedy if is_last else f"use checkpoints/{CHECKPOINTS[0]}"
        raise RunError(f"{checkpoint} has no state.pt, so that no run can resume from it; {remedy}")
    try:
        values = load_torch_file(state)
    except OSError as error:
        raise make_read_error(state, STATE, error) from None
    except pickle.UnpicklingError:
        reason = "it is not a file of torch.save, or holds Python objects, which are never loaded"
        raise make_damage_error(state, STATE, reason) from None
    except ValueError as error:
        raise make_damage_error(state, STATE, get_first_line(error)) from None
    averaged = None if ema is None else _load_finite_weights(ema)
    return model, averaged, check_object(values, state, STATE)
