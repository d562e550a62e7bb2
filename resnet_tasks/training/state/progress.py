"""How far a run has come, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TrainingProgress:
    """How far a run has come.

    Attributes:
        epoch: The current epoch, from 0.
        batch: Batches of it that are done.
        updates: Optimizer steps since the start.
        skipped: Steps that were left out because a value was not finite.
        skipped_in_row: Of those, the ones since the last good step.
        judged: Epochs up to the last evaluation; one that a kill cut off is made again.
        best: Value of the metric that chooses the best checkpoint.
        seconds: Spent training, over all sittings.
        stale: Evaluations since the best one.
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


@dataclass(frozen=True)
class RunLength:
    """How long a run is, if nothing ends it early.

    Attributes:
        batches_per_epoch: Of all processes together.
        updates_per_epoch: Optimizer steps of an epoch.
        updates: Optimizer steps of the run.
    """

    batches_per_epoch: int
    updates_per_epoch: int
    updates: int
