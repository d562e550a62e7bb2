"""Steps whose loss or gradient is not finite: they end the run or are left out, and are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from resnet_tasks.errors import NonFiniteLossError
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.guards.replay import RecordedStep, write_replay
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.progress import RunLength, TrainingProgress
from resnet_tasks.training.state.train_state import TrainState

MOST_SKIPPED = 3
"""Steps that `training.non_finite=skip` may leave out, or 1 % of them where that is more."""
MOST_IN_ROW = 10
"""Steps left out in a row that end a run."""


@dataclass
class TrainStep:
    """An optimizer step while it is taken.

    Attributes:
        update: Its number.
        epoch: From 0.
        seed: Of the step.
        batches: Of this process, on the device.
        counts: For every batch so far: loss term -> what it is divided by.
        means: `head/term` -> mean, of the last batch, in this process.
        is_source: Whether a value that is not finite arose in this process.
    """

    update: int
    epoch: int
    seed: int
    batches: Sequence[Batch]
    counts: list[dict[str, float]] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)
    is_source: bool = False

    @property
    def image_ids(self) -> list[int | str]:
        """Of all images."""
        return [image_id for batch in self.batches for image_id in batch.image_ids]

    def raise_if_non_finite(self, troubles: Sequence[str]) -> None:
        """Ends the step if something in it is not finite.

        Args:
            troubles: What processes have to say of that.

        Raises:
            NonFiniteLossError: If there are any.
        """
        if troubles:
            raise NonFiniteLossError(
                "the loss or its gradient is not finite at update "
                f"{self.update} (epoch {self.epoch + 1}); "
                f"{'; '.join(troubles)}; lower training.learning_rate, keep training.clip_norm, or "
                "look at these images' annotations"
            )


class NonFiniteStepPolicy:
    """What becomes of steps that are not finite (`training.non_finite`).

    Args:
        train_state: Whose steps they are; as it was before each.
        options: Whether to stop.
        length: Of the run, for how many may be left out.
        run_log: Is told of those left out.
        folder: Run folder, which keeps them for `replay`; None: nothing is kept.
    """

    def __init__(
        self,
        train_state: TrainState,
        options: TrainingRecipe,
        length: RunLength,
        *,
        run_log: RunLog,
        folder: Path | None,
    ) -> None:
        self._train_state = train_state
        self._options = options
        self._max_skipped = max(MOST_SKIPPED, length.updates // 100)
        self._run_log = run_log
        self._folder = folder

    def skip_step(
        self, train_step: TrainStep, progress: TrainingProgress, trouble: NonFiniteLossError
    ) -> None:
        """Leaves a step out, where that is wanted; keeps it for `replay`.

        Args:
            train_step: The step.
            progress: Of the run; its counts of skipped steps rise.
            trouble: What is not finite.

        Raises:
            NonFiniteLossError: If the run is to stop there, or too many steps were left out.
        """
        replay_folder = self._save_for_replay(train_step, str(trouble))
        replay_hint = (
            ""
            if replay_folder is None
            else f"; do the step again with `resnet-tasks replay {replay_folder}`"
        )
        if self._options.non_finite == "stop":
            raise NonFiniteLossError(
                f"{trouble}{replay_hint}; training.non_finite=skip leaves such steps out"
            )
        progress.skipped += 1
        progress.skipped_in_row += 1
        if progress.skipped > self._max_skipped or progress.skipped_in_row >= MOST_IN_ROW:
            raise NonFiniteLossError(
                f"{trouble}{replay_hint}; {progress.skipped} of {train_step.update + 1} steps were "
                "left "
                f"out, {progress.skipped_in_row} in a row; allowed are {self._max_skipped}, and "
                "fewer "
                f"than {MOST_IN_ROW} in a row"
            )
        self._run_log.log(
            "skipped", update=train_step.update, epoch=train_step.epoch + 1, reason=str(trouble)
        )
        self._run_log.print_line(f"step {train_step.update} was left out: {trouble}{replay_hint}")

    def _save_for_replay(self, train_step: TrainStep, trouble: str) -> Path | None:
        """Writes the step for `replay`, in the processes where it went wrong."""
        if self._folder is None or not train_step.is_source:
            return None
        train_state = self._train_state
        processes, model = train_state.processes, train_state.plain_model
        step = RecordedStep(
            update=train_step.update,
            seed=train_step.seed + processes.index,
            precision=train_state.precision,
            deterministic=self._options.deterministic,
            threads=torch.get_num_threads(),
            counts=train_step.counts,
            losses=train_step.means,
            trouble=trouble,
            frozen=[
                name for name, parameter in model.named_parameters() if not parameter.requires_grad
            ],
            weights=train_state.balancer.compute_weights(),
        )
        suffix = f"-process-{processes.index}" if processes.count > 1 else ""
        name = f"update-{train_step.update}{suffix}"
        return write_replay(self._folder, name, model, train_step.batches, step)
