"""The checkpoints that a run writes while it trains, and going on from the last of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnet_tasks.errors import RunError
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.training.checkpoint import fill, load_checkpoint, save_checkpoint
from resnet_tasks.training.position import Position, RunLength
from resnet_tasks.training.trainee import Trainee

STATE = ("position", "optimizer", "batches_per_epoch", "threads", "settings", "scaler")
"""What `state.pt` must hold to go on from it."""
FREE = frozenset(
    {"checkpoint_minutes", "device", "deterministic", "trackers", "log_gradient_conflict"}
)
"""Settings that may change between sittings: they do not decide the final weights."""


def lasting_settings(options: TrainingRecipe) -> dict[str, Any]:
    """Options that decide the final weights, as plain values."""
    # With patience, when evaluations come decides when the run ends.
    free = FREE if options.patience is not None else FREE | {"evaluate_every"}
    values: dict[str, Any] = json.loads(options.model_dump_json(exclude=set(free)))
    return values


class Checkpoints:
    """`checkpoints/last`, to go on from, and `checkpoints/best`, of one run.

    Args:
        folder: Run folder.
        trainee: What is written and filled; one process writes.
        options: Settings that must stay the same.
        length: Of the run; an epoch must stay as long.
    """

    def __init__(
        self, folder: Path, trainee: Trainee, options: TrainingRecipe, length: RunLength
    ) -> None:
        self._folder = folder
        self._trainee = trainee
        self._options = options
        self._length = length

    def save_last(self, position: Position) -> None:
        """Writes weights and all that is needed to go on from them.

        Raises:
            RunError: If the run folder has gone, or the disk is full.
        """
        state: dict[str, Any] = {
            "position": asdict(position),
            "batches_per_epoch": self._length.batches_per_epoch,
            "threads": torch.get_num_threads(),
            "settings": lasting_settings(self._options),
            **self._trainee.state(),
        }
        self._save("last", state)

    def save_best(self) -> None:
        """Writes the weights alone.

        Raises:
            RunError: If the run folder has gone, or the disk is full.
        """
        self._save("best", None)

    def resume(self, say: Callable[[str], None]) -> Position:
        """Goes on from `checkpoints/last`.

        Args:
            say: Is told if the result will not be the same to the bit.

        Returns:
            How far the run had come.

        Raises:
            RunError: If there is none, or it belongs to other settings.
        """
        last = self._folder / "checkpoints" / "last"
        weights, averaged, state = load_checkpoint(last)
        self._require_complete(state)
        self._require_same_settings(state["settings"])
        trainee = self._trainee
        fill(trainee.plain_model, weights, last)
        if averaged is not None and trainee.averaged is not None:
            trainee.averaged.load_state_dict(averaged)
        self._require_same_epochs(state["batches_per_epoch"])
        threads = torch.get_num_threads()
        if state["threads"] != threads and self._options.deterministic:
            say(
                f"note: started with {state['threads']} threads, resumed with {threads}; "
                "the result will differ in the last digits from an uninterrupted run"
            )
        trainee.restore(state)
        return Position(**state["position"])

    def _save(self, name: str, state: Mapping[str, Any] | None) -> None:
        if not self._trainee.processes.is_main:
            return
        if not self._folder.is_dir():
            raise RunError(
                f"the run folder {self._folder} has gone while the run was in it; put it back (a "
                "moved folder, a disk that is not mounted) and go on with --resume, or start again"
            )
        averaged = self._trainee.averaged
        save_checkpoint(
            self._folder / "checkpoints" / name,
            model=self._trainee.plain_model.state_dict(),
            ema=None if averaged is None else averaged.state_dict(),
            state=state,
        )

    def _require_complete(self, state: Mapping[str, Any]) -> None:
        lacking = [key for key in STATE if key not in state]
        if lacking:
            raise RunError(
                f"the training state of {self._folder} is not of this version: it lacks "
                f"{', '.join(lacking)}; start again"
            )

    def _require_same_settings(self, before: Mapping[str, Any]) -> None:
        now = lasting_settings(self._options)
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
