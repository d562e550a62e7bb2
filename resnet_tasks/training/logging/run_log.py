"""Output of a run during training: console, `log.jsonl` and trackers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from resnet_tasks.files.atomic import json_text, make_write_error
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress
from resnet_tasks.training.logging.gradient_conflict import GradientConflict
from resnet_tasks.training.logging.loss_spikes import LossIncrease, LossSpike
from resnet_tasks.training.logging.trackers import TrackedRun, Trackers
from resnet_tasks.training.state.loss_reduction import StepLosses

ShowStep = Callable[[StepLosses, float, float | None], None]
SMOOTHING = 0.9
"""Decay of the exponential moving average of losses and speed in the progress bar."""
MAX_IMAGES = 5
"""Maximum number of images that a warning lists."""


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
        self._smoothed: dict[str, float] = {}  # values of the progress bar, across epochs
        self._last_increase_epoch = 0  # epoch of the last loss increase on the console

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
        losses: StepLosses,
        rate: float,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Log one optimizer step.

        Args:
            update: Index of the step, from 0.
            epoch: Epoch, from 1.
            losses: Losses of the step.
            rate: Learning rate.
            weights: Head -> weight of its loss, if the balancing changes it.
        """
        extra = {"weights": dict(weights)} if weights else {}
        self.log(
            "step",
            update=update,
            epoch=epoch,
            loss=losses.total,
            losses=losses.terms,
            learning_rate=rate,
            **extra,
        )
        if weights:
            self._plot({f"weight/{name}": value for name, value in weights.items()}, update)
        self._plot({f"train/{name}": value for name, value in losses.terms.items()}, update)
        self._plot({"train/loss": losses.total, "train/learning_rate": rate}, update)

    def log_conflict(self, update: int, epoch: int, conflict: GradientConflict) -> None:
        """Log norms and cosines of the heads' gradients on the last shared stage."""
        self.log("gradients", update=update, epoch=epoch, **asdict(conflict))
        names = {f"gradients/cosine/{k}": value for k, value in conflict.cosines.items()}
        names |= {f"gradients/norm/{k}": value for k, value in conflict.norms.items()}
        self._plot(names, update)

    def log_spike(
        self, update: int, epoch: int, spike: LossSpike, image_ids: Sequence[int | str]
    ) -> None:
        """Log a spike of a loss term, without a line on the console."""
        self.log("spike", update=update, epoch=epoch, **asdict(spike), image_ids=list(image_ids))

    def log_increase(self, epoch: int, increase: LossIncrease) -> None:
        """Log a lasting increase of a loss; print the first one of an epoch."""
        self.log("loss_increase", epoch=epoch, **asdict(increase))
        if self._last_increase_epoch == epoch:
            return
        self._last_increase_epoch = epoch
        images = [str(image_id) for image_id in increase.image_ids]
        more = f" and {len(images) - MAX_IMAGES} more" if len(images) > MAX_IMAGES else ""
        self.print_line(
            f"warning: epoch {epoch}: the loss of head {increase.head} rose from "
            f"{increase.before:.3g} to {increase.after:.3g} at update {increase.update} and has "
            "not fallen since; if it stays high, lower training.learning_rate and check the "
            f"annotations of that step's images: {', '.join(images[:MAX_IMAGES])}{more}"
        )

    def log_evaluation(
        self,
        heading: str,
        epoch: int,
        update: int,
        values: Mapping[str, float | None],
        *,
        console_values: Mapping[str, float | None],
    ) -> None:
        """Log all metrics of an evaluation, and print some of them.

        Args:
            heading: Start of the line on the console.
            epoch: Number of finished epochs.
            update: Number of finished optimizer steps.
            values: `head/metric` -> value; None if it is undefined.
            console_values: Name of each metric to print -> value.
        """
        self.log("evaluation", epoch=epoch, update=update, metrics=dict(values))
        self._plot({f"val/{name}": value for name, value in values.items()}, update)
        texts = [
            f"{name} {'-' if value is None else f'{value:.4f}'}"
            for name, value in console_values.items()
        ]
        self.print_line("  ".join([heading, *texts]))

    def _plot(self, values: Mapping[str, float | None], update: int) -> None:
        if self._trackers is not None:
            self._trackers.plot(values, update)

    @contextmanager
    def show_progress(self, heading: str, completed: int, total: int) -> Iterator[ShowStep]:
        """Show a progress bar over the optimizer steps of an epoch.

        It shows smoothed values: images/s and the total loss, and the loss terms as far as the
        console has room for them.

        Args:
            heading: Text before the bar, such as `epoch 2/10`.
            completed: Number of steps of the epoch that are already done.
            total: Number of steps of the epoch.

        Yields:
            Function that takes the losses and the speed (images/s) of a step and the seconds until
            the end of the run, and advances the bar. A skipped step leaves the losses unchanged.
        """
        smoothed = self._smoothed

        def smooth(name: str, value: float) -> None:
            smoothed[name] = SMOOTHING * smoothed.get(name, value) + (1 - SMOOTHING) * value

        with track_progress(
            self._console, heading, total, completed=completed, time_label="left in run"
        ) as advance:

            def show(losses: StepLosses, speed: float, seconds_left: float | None) -> None:
                smooth("images/s", speed)
                if losses.total is not None:
                    smooth("loss", losses.total)
                for name, value in losses.terms.items():
                    smooth(name, value)
                loss = f" loss {_format(smoothed['loss'])}" if "loss" in smoothed else ""
                terms = [name for name in smoothed if name not in ("images/s", "loss")]
                advance(
                    detail=f"{_format(smoothed['images/s'])} images/s{loss}",
                    extras=[f"{name} {_format(smoothed[name])}" for name in terms],
                    seconds_left=seconds_left,
                )

            yield show


def _format(value: float) -> str:
    """Format a number with three significant digits; from 1,000 to 100,000 without decimals."""
    return f"{value:.0f}" if 1000 <= abs(value) < 100_000 else f"{value:#.3g}".rstrip(".")


def _find_missing_newline(stream: BinaryIO) -> bytes:
    """Return a newline if a kill or a full disk has cut off the last line, else nothing."""
    if stream.seek(0, os.SEEK_END) == 0:
        return b""
    stream.seek(-1, os.SEEK_END)
    return b"" if stream.read(1) == b"\n" else b"\n"
