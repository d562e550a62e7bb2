"""Steps whose loss or gradient is not finite: they are saved, and end the run or are skipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.errors import NonFiniteLossError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.guards.recorded_step import RecordedStep, write_replay
from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.progress import RunLength, TrainingProgress

MOST_SKIPPED = 3
"""Number of steps that `training.non_finite=skip` may skip; 1 % of the run's steps if that is
more."""
MOST_IN_ROW = 10
"""Number of consecutive skipped steps that ends a run."""


class NonFiniteStepPolicy:
    """Policy for steps that are not finite: stop or skip (`training.non_finite`).

    Args:
        options: Training options; `non_finite` is `stop` or `skip`.
        length: Length of the run, which limits the number of skipped steps.
        processes: Process group of the training.
        run_log: Log of the skipped steps.
        folder: Path of the run folder, where the steps are saved for `replay`; None: nothing is
            saved.
    """

    def __init__(
        self,
        options: TrainingRecipe,
        length: RunLength,
        processes: DistributedContext,
        *,
        run_log: RunLog,
        folder: Path | None,
    ) -> None:
        self._policy = options.non_finite
        self._max_skipped = max(MOST_SKIPPED, length.updates // 100)
        self._processes = processes
        self._run_log = run_log
        self._folder = folder

    def skip_step(
        self,
        error: NonFiniteLossError,
        progress: TrainingProgress,
        record: RecordedStep,
        model: TaskModel,
        batches: Sequence[Batch],
    ) -> None:
        """Save a step for `replay`, then skip it if the options allow that.

        Args:
            error: Error with the losses that are not finite.
            progress: Position in the run; its counts of skipped steps are increased.
            record: Record of the step; the processes whose record has a `trouble` save it.
            model: Model with the weights and buffers before the step.
            batches: Batches of the step in this process.

        Raises:
            NonFiniteLossError: If the policy is to stop, or too many steps were skipped.
        """
        trouble = (
            f"the loss or its gradient is not finite at update {progress.updates} (epoch "
            f"{progress.epoch + 1}); {error}; lower training.learning_rate, keep "
            "training.clip_norm, or check the annotations of these images"
        )
        replay_folder = None
        if record.trouble and self._folder is not None:
            record.trouble = trouble
            record.frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
            suffix = f"-process-{self._processes.index}" if self._processes.count > 1 else ""
            name = f"update-{record.update}{suffix}"
            replay_folder = write_replay(self._folder, name, model, batches, record)
        message = trouble
        if replay_folder is not None:
            message += f"; repeat the step with `resnet-tasks replay {replay_folder}`"
        if self._policy == "stop":
            raise NonFiniteLossError(f"{message}; set training.non_finite=skip to skip such steps")
        progress.skipped += 1
        progress.skipped_in_row += 1
        if progress.skipped > self._max_skipped or progress.skipped_in_row >= MOST_IN_ROW:
            raise NonFiniteLossError(
                f"{message}; {progress.skipped} of {progress.updates + 1} steps "
                f"were skipped, {progress.skipped_in_row} in a row; at most {self._max_skipped} "
                f"may be skipped, and fewer than {MOST_IN_ROW} in a row"
            )
        self._run_log.log(
            "skipped", update=progress.updates, epoch=progress.epoch + 1, reason=trouble
        )
        self._run_log.print_line(f"step {progress.updates} was skipped: {message}")
