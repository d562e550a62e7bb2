"""The checkpoints that a run writes while it trains, and going on from the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runs.checkpoint import load_checkpoint, load_weights_into, save_checkpoint
from resnet_tasks.training.state.progress import RunLength, TrainingProgress
from resnet_tasks.training.state.train_state import TrainState

REQUIRED_STATE_KEYS = (
    "position",
    "optimizer",
    "batches_per_epoch",
    "threads",
    "settings",
    "scaler",
)
"""What `state.pt` must hold to go on from it."""
CHANGEABLE_SETTINGS = frozenset(
    {"checkpoint_minutes", "device", "deterministic", "trackers", "log_gradient_conflict"}
)
"""Settings that may change between sittings: they do not decide the final weights."""


def dump_fixed_settings(options: TrainingRecipe) -> dict[str, Any]:
    """Options that decide the final weights, as plain values."""
    # With patience, when evaluations come decides when the run ends.
    excluded = (
        CHANGEABLE_SETTINGS
        if options.patience is not None
        else CHANGEABLE_SETTINGS | {"evaluate_every"}
    )
    values: dict[str, Any] = json.loads(options.model_dump_json(exclude=set(excluded)))
    return values


class CheckpointManager:
    """`checkpoints/last`, to go on from, and `checkpoints/best`, of one run.

    Args:
        folder: Run folder.
        train_state: What is written and filled; one process writes.
        options: Settings that must stay the same.
        length: Of the run; an epoch must stay as long.
    """

    def __init__(
        self, folder: Path, train_state: TrainState, options: TrainingRecipe, length: RunLength
    ) -> None:
        self._folder = folder
        self._train_state = train_state
        self._options = options
        self._length = length

    def save_last(self, progress: TrainingProgress) -> None:
        """Writes weights and all that is needed to go on from them.

        Raises:
            RunError: If the run folder has gone, or the disk is full.
        """
        state: dict[str, Any] = {
            "position": asdict(progress),
            "batches_per_epoch": self._length.batches_per_epoch,
            "threads": torch.get_num_threads(),
            "settings": dump_fixed_settings(self._options),
            **self._train_state.state_dict(),
        }
        self._save("last", state)

    def save_best(self) -> None:
        """Writes the weights alone.

        Raises:
            RunError: If the run folder has gone, or the disk is full.
        """
        self._save("best", None)

    def resume(self, print_line: Callable[[str], None]) -> TrainingProgress:
        """Goes on from `checkpoints/last`.

        Args:
            print_line: Is told if the result will not be the same to the bit.

        Returns:
            How far the run had come.

        Raises:
            RunError: If there is none, or it belongs to other settings.
        """
        last = self._folder / "checkpoints" / "last"
        weights, averaged, state = load_checkpoint(last)
        self._require_complete(state)
        self._require_same_settings(state["settings"])
        train_state = self._train_state
        load_weights_into(train_state.plain_model, weights, last)
        if averaged is not None and train_state.averaged_model is not None:
            train_state.averaged_model.load_state_dict(averaged)
        self._require_same_epochs(state["batches_per_epoch"])
        threads = torch.get_num_threads()
        if state["threads"] != threads and self._options.deterministic:
            print_line(
                f"note: started with {state['threads']} threads, resumed with {threads}; "
                "the result will differ in the last digits from an uninterrupted run"
            )
        train_state.load_state_dict(state)
        return TrainingProgress(**state["position"])

    def _save(self, name: str, state: Mapping[str, Any] | None) -> None:
        if not self._train_state.processes.is_main:
            return
        if not self._folder.is_dir():
            raise RunError(
                f"the run folder {self._folder} has gone while the run was in it; put it back (a "
                "moved folder, a disk that is not mounted) and go on with --resume, or start again"
            )
        averaged = self._train_state.averaged_model
        save_checkpoint(
            self._folder / "checkpoints" / name,
            model=self._train_state.plain_model.state_dict(),
            ema=None if averaged is None else averaged.state_dict(),
            state=state,
        )

    def _require_complete(self, state: Mapping[str, Any]) -> None:
        missing = [key for key in REQUIRED_STATE_KEYS if key not in state]
        if missing:
            raise RunError(
                f"the training state of {self._folder} is not of this version: it lacks "
                f"{', '.join(missing)}; start again"
            )

    def _require_same_settings(self, before: Mapping[str, Any]) -> None:
        now = dump_fixed_settings(self._options)
        changed = [key for key, value in before.items() if now.get(key) != value]
        if changed:
            texts = (f"training.{key} was {before[key]!r}, is {now[key]!r}" for key in changed)
            raise RunError(
                f"{self._folder} was started with other settings: {'; '.join(texts)}; resume with "
                "the same, or start a new run"
            )

    def _require_same_epochs(self, before: int) -> None:
        now = self._length.batches_per_epoch
        if before != now:
            raise RunError(
                f"{self._folder} was trained with {before} batches an epoch, now there are {now}; "
                "resume with the same data and batch size"
            )
