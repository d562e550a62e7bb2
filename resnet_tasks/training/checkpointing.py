"""Checkpoints that a run writes during training, and resuming from the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnet_tasks.errors import RunError, get_first_line
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder.checkpoint import (
    load_checkpoint,
    load_weights_into,
    name_head_checkpoint,
    save_checkpoint,
)
from resnet_tasks.run_folder.files import STATE
from resnet_tasks.run_folder.read import make_damage_error
from resnet_tasks.training.state.progress import RunLength, TrainingProgress
from resnet_tasks.training.train_step import TrainStep

INVALID_STATE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)
"""Errors of optimizer, scaler and balancing on a state that is not theirs."""
CHANGEABLE_SETTINGS = frozenset(
    {"checkpoint_minutes", "device", "deterministic", "trackers", "log_gradient_conflict"}
)
"""Settings that may change when a run is resumed, because they do not affect the final weights."""


def dump_fixed_settings(options: TrainingRecipe) -> dict[str, Any]:
    """Return the options that affect the final weights, as JSON-compatible values."""
    # With patience, the epochs of the evaluations determine when the run ends.
    excluded = (
        CHANGEABLE_SETTINGS
        if options.patience is not None
        else CHANGEABLE_SETTINGS | {"evaluate_every"}
    )
    values: dict[str, Any] = json.loads(options.model_dump_json(exclude=set(excluded)))
    return values


def dump_step_state(train_step: TrainStep) -> dict[str, Any]:
    """Return the state of the optimizer, the loss scaler and the loss balancing."""
    scaler = train_step.accelerator.scaler
    return {
        "optimizer": train_step.optimizer.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "balancing": train_step.balancer.state_dict(),
    }


def load_step_state(train_step: TrainStep, state: Mapping[str, Any]) -> None:
    """Restore a state of `dump_step_state`.

    Raises:
        ValueError: If the state of the optimizer does not fit its parameters.
    """
    optimizer = train_step.optimizer.optimizer
    optimizer.load_state_dict(state["optimizer"])
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # torch does not check this until the next step.
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimizer has the shape of another parameter")
    if train_step.accelerator.scaler is not None:
        train_step.accelerator.scaler.load_state_dict(state["scaler"])
    train_step.balancer.load_state_dict(state.get("balancing", {}))


class CheckpointManager:
    """Writer and reader of a run's `checkpoints/last`, to resume from, and of its best checkpoints.

    Args:
        folder: Path of the run folder.
        train_step: Step whose state is saved and restored; only the main process writes.
        options: Training options; those that affect the final weights must not change on resume.
        length: Length of the run; the batches per epoch must not change on resume.
    """

    def __init__(
        self, folder: Path, train_step: TrainStep, options: TrainingRecipe, length: RunLength
    ) -> None:
        self._folder = folder
        self._train_step = train_step
        self._options = options
        self._length = length

    def save_last(self, progress: TrainingProgress) -> None:
        """Write `checkpoints/last`: weights and everything that is needed to resume.

        Args:
            progress: Position in the training.

        Raises:
            RunError: If the run folder no longer exists, or the disk is full.
        """
        state: dict[str, Any] = {
            "position": asdict(progress),
            "batches_per_epoch": self._length.batches_per_epoch,
            "threads": torch.get_num_threads(),
            "settings": dump_fixed_settings(self._options),
            **dump_step_state(self._train_step),
        }
        self._save("last", state)

    def save_best(self, head: str | None = None) -> None:
        """Write `checkpoints/best`, or `checkpoints/best-HEAD`: the weights only.

        Args:
            head: Head whose metric selected the weights; None: `evaluation.best` did.

        Raises:
            RunError: If the run folder no longer exists, or the disk is full.
        """
        self._save("best" if head is None else name_head_checkpoint(head), None)

    def resume(self, print_line: Callable[[str], None]) -> TrainingProgress:
        """Restore the training state from `checkpoints/last`.

        Args:
            print_line: Function that prints a note if the result will not be bit-identical to that
                of an uninterrupted run.

        Returns:
            Position of the run at the checkpoint.

        Raises:
            RunError: If there is no checkpoint, or it belongs to other settings.
        """
        last = self._folder / "checkpoints" / "last"
        weights, averaged, state = load_checkpoint(last)
        self._require_same_settings(state["settings"])
        train_step = self._train_step
        load_weights_into(train_step.model, weights, last)
        if train_step.averaged_model is not None:
            if averaged is None:
                raise RunError(
                    f"{last} lacks ema.safetensors, the averaged weights that training.ema needs; "
                    "restore the file from a copy, or start a new run"
                )
            load_weights_into(train_step.averaged_model, averaged, last)
        self._require_same_epochs(state["batches_per_epoch"])
        threads = torch.get_num_threads()
        if state["threads"] != threads and self._options.deterministic:
            print_line(
                f"note: the run was started with {Count(state['threads']):thread} and is resumed "
                f"with {threads}; its result will differ from an uninterrupted run in the "
                "last digits"
            )
        try:
            load_step_state(train_step, state)
        except INVALID_STATE as error:
            raise make_damage_error(last / "state.pt", STATE, get_first_line(error)) from None
        return TrainingProgress(**state["position"])

    def _save(self, name: str, state: Mapping[str, Any] | None) -> None:
        if not self._train_step.processes.is_main:
            return
        if not self._folder.is_dir():
            raise RunError(
                f"the run folder {self._folder} disappeared during the run; restore it (if it was "
                "moved or its disk was unmounted) and continue with --resume, or start a new run"
            )
        averaged = self._train_step.averaged_model
        save_checkpoint(
            self._folder / "checkpoints" / name,
            model=self._train_step.model.state_dict(),
            ema=None if averaged is None else averaged.state_dict(),
            state=state,
        )

    def _require_same_settings(self, before: Mapping[str, Any]) -> None:
        now = dump_fixed_settings(self._options)
        changed = [key for key, value in before.items() if now.get(key) != value]
        if changed:
            texts = (f"training.{key} was {before[key]!r}, now {now[key]!r}" for key in changed)
            raise RunError(
                f"{self._folder} was started with other settings: {'; '.join(texts)}; resume with "
                "the original settings, or start a new run"
            )

    def _require_same_epochs(self, before: int) -> None:
        now = self._length.batches_per_epoch
        if before != now:
            raise RunError(
                f"{self._folder} was trained with {Count(before):batch} per epoch, but now there "
                f"are {now}; resume with the same data and batch size"
            )
