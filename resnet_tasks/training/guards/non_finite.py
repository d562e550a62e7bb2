"""Steps whose loss or gradient is not finite: they end the run or are skipped, and are saved."""

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
"""Number of steps that `training.non_finite=skip` may skip; 1 % of the run's steps if that is
more."""
MOST_IN_ROW = 10
"""Number of consecutive skipped steps that ends a run."""


@dataclass
class TrainStep:
    """State of an optimizer step while it is taken.

    Attributes:
        update: Index of the step, from 0.
        epoch: Epoch, from 0.
        seed: Seed of the step.
        batches: This process's part of the batches, on the device.
        counts: Loss term -> divisor over all processes, one mapping per batch so far.
        means: `head/term` -> mean over the last batch, in this process.
        is_source: Whether a value that is not finite was computed in this process.
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
        """Ids of all images of the step in this process."""
        return [image_id for batch in self.batches for image_id in batch.image_ids]

    def raise_if_non_finite(self, troubles: Sequence[str]) -> None:
        """Raise an error if a process reports a value that is not finite.

        Args:
            troubles: Descriptions by the processes where a loss or gradient is not finite.

        Raises:
            NonFiniteLossError: If `troubles` is not empty.
        """
        if troubles:
            raise NonFiniteLossError(
                "the loss or its gradient is not finite at update "
                f"{self.update} (epoch {self.epoch + 1}); "
                f"{'; '.join(troubles)}; lower training.learning_rate, keep training.clip_norm, or "
                "check the annotations of these images"
            )


class NonFiniteStepPolicy:
    """Policy for steps that are not finite: stop or skip (`training.non_finite`).

    Args:
        train_state: Training state, restored to the state before the step.
        options: Training options; `non_finite` is `stop` or `skip`.
        length: Length of the run, which limits the number of skipped steps.
        run_log: Log of the skipped steps.
        folder: Path of the run folder, where the steps are saved for `replay`; None: nothing is
            saved.
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
        """Save a step for `replay`, then skip it if the options allow that.

        Args:
            train_step: Step that is not finite.
            progress: Position in the run; its counts of skipped steps are increased.
            trouble: Error that describes the step.

        Raises:
            NonFiniteLossError: If the options are to stop, or too many steps were skipped.
        """
        replay_folder = self._save_for_replay(train_step, str(trouble))
        replay_hint = (
            ""
            if replay_folder is None
            else f"; repeat the step with `resnet-tasks replay {replay_folder}`"
        )
        if self._options.non_finite == "stop":
            raise NonFiniteLossError(
                f"{trouble}{replay_hint}; training.non_finite=skip skips such steps"
            )
        progress.skipped += 1
        progress.skipped_in_row += 1
        if progress.skipped > self._max_skipped or progress.skipped_in_row >= MOST_IN_ROW:
            raise NonFiniteLossError(
                f"{trouble}{replay_hint}; {progress.skipped} of {train_step.update + 1} steps "
                f"were skipped, {progress.skipped_in_row} in a row; allowed are "
                f"{self._max_skipped}, and fewer than {MOST_IN_ROW} in a row"
            )
        self._run_log.log(
            "skipped", update=train_step.update, epoch=train_step.epoch + 1, reason=str(trouble)
        )
        self._run_log.print_line(f"step {train_step.update} was skipped: {trouble}{replay_hint}")

    def _save_for_replay(self, train_step: TrainStep, trouble: str) -> Path | None:
        """Write the step for `replay` in the processes whose values are not finite.

        Returns:
            Path of the replay folder; None if nothing was written.
        """
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
