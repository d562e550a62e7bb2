"""Steps whose loss or gradient is not finite: they end the run or are left out, and are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from resnet_tasks.errors import NonFiniteLossError
from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.structures import Batch
from resnet_tasks.training.journal import Journal
from resnet_tasks.training.position import Position, RunLength
from resnet_tasks.training.replay import Step, write_replay
from resnet_tasks.training.trainee import Trainee

MOST_SKIPPED = 3
"""Steps that `training.non_finite=skip` may leave out, or 1 % of them where that is more."""
MOST_IN_ROW = 10
"""Steps left out in a row that end a run."""


@dataclass
class Attempt:
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
        """Of all pictures."""
        return [image_id for batch in self.batches for image_id in batch.image_ids]

    def refuse(self, troubles: Sequence[str]) -> None:
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
                "look at these pictures' annotations"
            )


class NonFiniteSteps:
    """What becomes of steps that are not finite (`training.non_finite`).

    Args:
        trainee: Whose steps they are; as it was before each.
        options: Whether to stop.
        length: Of the run, for how many may be left out.
        journal: Is told of those left out.
        folder: Run folder, which keeps them for `replay`; None: nothing is kept.
    """

    def __init__(
        self,
        trainee: Trainee,
        options: TrainingRecipe,
        length: RunLength,
        *,
        journal: Journal,
        folder: Path | None,
    ) -> None:
        self._trainee = trainee
        self._options = options
        self._most = max(MOST_SKIPPED, length.updates // 100)
        self._journal = journal
        self._folder = folder

    def leave_out(self, attempt: Attempt, position: Position, trouble: NonFiniteLossError) -> None:
        """Leaves a step out, where that is wanted; keeps it for `replay`.

        Args:
            attempt: The step.
            position: Of the run; its counts of skipped steps rise.
            trouble: What is not finite.

        Raises:
            NonFiniteLossError: If the run is to stop there, or too many steps were left out.
        """
        kept = self._keep(attempt, str(trouble))
        how = "" if kept is None else f"; do the step again with `resnet-tasks replay {kept}`"
        if self._options.non_finite == "stop":
            raise NonFiniteLossError(
                f"{trouble}{how}; training.non_finite=skip leaves such steps out"
            )
        position.skipped += 1
        position.skipped_in_row += 1
        if position.skipped > self._most or position.skipped_in_row >= MOST_IN_ROW:
            raise NonFiniteLossError(
                f"{trouble}{how}; {position.skipped} of {attempt.update + 1} steps were left "
                f"out, {position.skipped_in_row} in a row; allowed are {self._most}, and fewer "
                f"than {MOST_IN_ROW} in a row"
            )
        self._journal.log(
            "skipped", update=attempt.update, epoch=attempt.epoch + 1, reason=str(trouble)
        )
        self._journal.say(f"step {attempt.update} was left out: {trouble}{how}")

    def _keep(self, attempt: Attempt, trouble: str) -> Path | None:
        """Writes the step for `replay`, in the processes where it went wrong."""
        if self._folder is None or not attempt.is_source:
            return None
        trainee = self._trainee
        processes, model = trainee.processes, trainee.plain_model
        step = Step(
            update=attempt.update,
            seed=attempt.seed + processes.index,
            precision=trainee.precision,
            deterministic=self._options.deterministic,
            threads=torch.get_num_threads(),
            counts=attempt.counts,
            losses=attempt.means,
            trouble=trouble,
            frozen=[name for name, each in model.named_parameters() if not each.requires_grad],
            weights=trainee.balancing.weights(),
        )
        others = f"-process-{processes.index}" if processes.count > 1 else ""
        name = f"update-{attempt.update}{others}"
        return write_replay(self._folder, name, model, attempt.batches, step)
