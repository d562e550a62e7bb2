"""Output of a run during training: console, `log.jsonl` and trackers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from rich.console import Console

from resnet_tasks.files.atomic import json_text, make_write_error
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.training.logging.gradient_conflict import GradientConflict
from resnet_tasks.training.logging.loss_spikes import LossSpike
from resnet_tasks.training.logging.trackers import TrackedRun, Trackers

ShowStep = Callable[[Mapping[str, float], float], None]
SMOOTHING = 0.9
"""Decay of the exponential moving average of losses and speed in the progress bar."""


class RunLog:
    """Console, log file and trackers of one run.

    Args:
        folder: Path of the run folder.
        console: Console for the user.
        silent: Whether to write and print nothing, as in all processes except the main one.
    """

    def __init__(self, folder: Path, console: Console, *, silent: bool = False) -> None:
        self._folder = folder
        self._console = Console(quiet=True) if silent else console
        self._silent = silent
        self._trackers: Trackers | None = None
        self._last_spike_epoch = 0  # epoch of the last spike on the console

    @classmethod
    def create_silent(cls) -> RunLog:
        """Create a log that writes and prints nothing."""
        return cls(Path(), Console(quiet=True), silent=True)

    @contextmanager
    def open_trackers(self, options: TrainingRecipe, update: int) -> Iterator[None]:
        """Send values to the trackers inside the block.

        Args:
            options: Training options with the names of the trackers.
            update: Index of the next step; TensorBoard hides points from this step on, which a run
                wrote after its last checkpoint.
        """
        if self._silent:
            yield
            return
        run = TrackedRun.from_folder(self._folder, options, update)
        self._trackers = trackers = Trackers(options.trackers, run, self.print_line)
        try:
            yield
        finally:
            self._trackers = None
            trackers.close()

    def print_line(self, text: str) -> None:
        """Print a line on the console."""
        self._console.print(text, highlight=False, markup=False)

    def log(self, event: str, **values: object) -> None:
        """Append a line to `log.jsonl`.

        Args:
            event: Kind of the line, such as `step`.
            **values: JSON-compatible values of the line.

        Raises:
            RunError: If the disk is full or the folder no longer exists.
        """
        if self._silent:
            return
        line = json_text({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S"), **values})
        path = self._folder / "log.jsonl"
        try:
            with path.open("ab+") as stream:
                stream.write(_find_missing_newline(stream) + line.encode() + b"\n")
        except OSError as error:
            raise make_write_error(path, error) from None

    def log_step(
        self,
        update: int,
        epoch: int,
        losses: Mapping[str, float],
        rate: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Log one optimizer step.

        Args:
            update: Index of the step, from 0.
            epoch: Epoch, from 1.
            losses: `head/term` -> mean of the loss term.
            rate: Learning rate.
            weights: Head -> weight of its loss, if the balancing changes it.
        """
        extra = {"weights": dict(weights)} if weights else {}
        self.log(
            "step", update=update, epoch=epoch, losses=dict(losses), learning_rate=rate, **extra
        )
        if weights:
            self._plot({f"weight/{name}": value for name, value in weights.items()}, update)
        self._plot({f"train/{name}": value for name, value in losses.items()}, update)
        self._plot({"train/learning_rate": rate}, update)

    def log_conflict(self, update: int, epoch: int, conflict: GradientConflict) -> None:
        """Log norms and cosines of the heads' gradients on the last shared stage."""
        self.log("gradients", update=update, epoch=epoch, **asdict(conflict))
        names = {f"gradients/cosine/{k}": value for k, value in conflict.cosines.items()}
        names |= {f"gradients/norm/{k}": value for k, value in conflict.norms.items()}
        self._plot(names, update)

    def log_spike(
        self, update: int, epoch: int, spike: LossSpike, image_ids: Sequence[int | str]
    ) -> None:
        """Log a loss spike; only the first one of an epoch is printed on the console."""
        self.log("spike", update=update, epoch=epoch, **asdict(spike), image_ids=list(image_ids))
        if self._last_spike_epoch != epoch:
            self._last_spike_epoch = epoch
            images = ", ".join(map(str, image_ids))
            self.print_line(
                f"note: {spike.term} jumped to {spike.value:.4g} at update {update}, "
                f"{spike.deviations:.0f} standard deviations above its recent mean of "
                f"{spike.mean:.4g}; images: {images} (further spikes of this epoch are in "
                "log.jsonl)"
            )

    def log_evaluation(
        self,
        heading: str,
        epoch: int,
        update: int,
        values: Mapping[str, float | None],
        *,
        console_metrics: Sequence[str],
    ) -> None:
        """Log all metrics of an evaluation, and print some of them.

        Args:
            heading: Start of the line on the console.
            epoch: Number of finished epochs.
            update: Number of finished optimizer steps.
            values: `head/metric` -> value; None if it is undefined.
            console_metrics: Names of the metrics to print.
        """
        self.log("evaluation", epoch=epoch, update=update, metrics=dict(values))
        self._plot({f"val/{name}": value for name, value in values.items()}, update)
        texts = [
            f"{name} {'-' if (v := values[name]) is None else f'{v:.4f}'}"
            for name in console_metrics
        ]
        self.print_line("  ".join([heading, *texts]))

    def _plot(self, values: Mapping[str, float | None], update: int) -> None:
        if self._trackers is not None:
            self._trackers.plot(values, update)

    @contextmanager
    def show_progress(self, heading: str, completed: int, total: int) -> Iterator[ShowStep]:
        """Show a progress bar over optimizer steps: smoothed losses, images/s, time left.

        Args:
            heading: Text before the bar, such as `epoch 2/10`.
            completed: Number of steps that are already done.
            total: Number of steps of the entire run, so that the time left is that of the run.

        Yields:
            Function that takes the losses and the speed (images/s) of a step and advances the bar.
        """
        past: dict[str, float] = {}

        def smooth(name: str, value: float) -> float:
            past[name] = SMOOTHING * past.get(name, value) + (1 - SMOOTHING) * value
            return past[name]

        with track_progress(self._console, heading, total, completed=completed) as advance:

            def show(losses: Mapping[str, float], speed: float) -> None:
                texts = [f"{name} {smooth(name, value):.3f}" for name, value in losses.items()]
                advance(detail=f"{smooth('images/s', speed):.1f} images/s {' '.join(texts)}")

            yield show


def _find_missing_newline(stream: BinaryIO) -> bytes:
    """Return a newline if a kill or a full disk has cut off the last line, else nothing."""
    if stream.seek(0, os.SEEK_END) == 0:
        return b""
    stream.seek(-1, os.SEEK_END)
    return b"" if stream.read(1) == b"\n" else b"\n"
