"""Progress and length of a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingProgress:
    """Progress of a run.

    Attributes:
        epoch: Current epoch, from 0.
        batch: Number of finished batches of the epoch.
        updates: Number of optimizer steps since the start, skipped ones included.
        skipped: Number of steps that were skipped because a value was not finite.
        skipped_in_row: Number of steps skipped since the last finite step.
        judged: Number of finished epochs at the last evaluation; an interrupted evaluation is
            repeated.
        best: Best value so far of the metric that selects the best checkpoint; None without one.
        seconds: Seconds of training, over all resumes.
        stale: Number of evaluations since the best one.
        best_by_head: Head name -> best value so far of its main metric, for the heads whose best
            checkpoint is kept.
    """

    epoch: int = 0
    batch: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    judged: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0
    best_by_head: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLength:
    """Length of a run that is not stopped early.

    Attributes:
        batches_per_epoch: Number of batches per epoch; all processes share every batch.
        updates_per_epoch: Number of optimizer steps per epoch.
        updates: Number of optimizer steps of the run.
    """

    batches_per_epoch: int
    updates_per_epoch: int
    updates: int
