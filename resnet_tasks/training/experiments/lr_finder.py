"""Learning-rate finder: a sweep over learning rates on a model that is discarded, and its plot.

Smith 2017 ("Cyclical Learning Rates for Training Neural Networks", section 3.3) increases the rate
step by step to see where the loss falls and where it diverges. Here it grows by a constant factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from resnet_tasks.assemble.training_setup import TrainingSetup
from resnet_tasks.errors import NonFiniteLossError, RunError
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.number_formats import Count
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.progress import track_progress

SMOOTHING = 0.9
"""Decay of the exponential moving average of the loss."""
DIVERGED = 4.0
"""Multiple of the lowest smoothed loss at which the sweep ends; the same as in fastai's finder."""


FIRST_SMOOTHED = 4
"""Position of the first smoothed loss that counts: earlier ones are means of very few losses."""
CLEAR_FALL = 6.0
"""Fall of the smoothed loss, in standard errors, from which it is not noise; see `measure_fall`."""
NORMAL_QUARTILE = 1.1503
"""75th percentile of the absolute value of a standard normal variable."""


@dataclass(frozen=True)
class Fall:
    """Largest fall of a smoothed loss to its lowest point, compared with the noise of the losses.

    Attributes:
        start: Position of the smoothed loss from which it falls.
        size: Fall of the smoothed loss; 0 if it does not fall.
        noise: Standard deviation of the loss of a step around its trend.
        errors: `size` in standard errors of the difference of the two smoothed losses.
    """

    start: int
    size: float
    noise: float
    errors: float


@dataclass(frozen=True)
class LearningRateSweep:
    """Result of a sweep over learning rates.

    Attributes:
        rates: `training.learning_rate` of every step, growing by a constant factor.
        losses: Weighted total loss of all heads at every step.
        smoothed: Bias-corrected exponential moving average of `losses`.
        suggestion: Rate at which the smoothed loss falls fastest per decade, before its lowest
            point; None if it does not fall by more than the noise.
        lowest: Rate at which the smoothed loss is lowest.
        diverged: Rate at which the loss diverged and the sweep ended; None if it did not diverge.
        fall: Largest fall of the smoothed loss to its lowest point.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    lowest: float
    diverged: float | None
    fall: Fall

    def describe(self) -> str:
        """Return the suggested rate, its rule, the minimum and the end of the sweep, as lines."""
        count = Count(len(self.losses))
        is_cut = self.suggestion is not None and self.lowest == self.rates[-1]
        beyond = ";\n            it still falls there, so set a higher --last" if is_cut else ""
        end = (
            f"the loss did not diverge up to {self.rates[-1]:.2g}, in {count:step}{beyond}"
            if self.diverged is None
            else f"the loss diverged at {self.diverged:.2g}, after {count:step}"
        )
        lines = [
            f"suggestion: {self._describe_suggestion()}",
            f"minimum:    {min(self.smoothed):.4g} (smoothed loss) at a rate of {self.lowest:.2g}",
            f"end:        {end}",
        ]
        return "\n".join(lines)

    def _describe_suggestion(self) -> str:
        """Return the suggested rate with its rule, or the reason why there is none."""
        if self.suggestion is not None:
            return (
                f"training.learning_rate={self.suggestion:.2g}, where the smoothed loss\n"
                "            falls fastest per decade before its minimum"
            )
        if not self.fall.size:
            beyond = "" if self.diverged else ", a higher --last"
            return (
                "none, because the loss never falls;\n"
                f"            set a lower --first{beyond} or more --steps"
            )
        return (
            f"none, because the curve is noise: the smoothed loss falls by\n"
            f"            {self.fall.size:.2g}, {self.fall.errors:.1f} times its standard error "
            f"(a clear fall: {CLEAR_FALL:.0f} times);\n"
            "            set more --steps, a larger training.batch_size or other rates"
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write `lr_find.json` and `lr_find.png` into a folder and return their paths."""
        make_folder(folder)
        numbers, plot_path = folder / "lr_find.json", folder / "lr_find.png"
        write_json(numbers, {**asdict(self), "rule": "steepest fall of the smoothed loss"})
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color="0.75", linewidth=1, label="loss")
        axes.plot(self.rates, self.smoothed, color="tab:blue", label="smoothed")
        # The losses after the lowest point may be huge and would flatten the fall before it.
        low = min(self.smoothed)
        axes.plot([self.lowest], [low], "o", color="tab:blue", label=f"minimum: {self.lowest:.2g}")
        if self.suggestion is not None:
            label = f"suggestion (steepest fall): {self.suggestion:.2g}"
            axes.axvline(self.suggestion, color="tab:red", linestyle="--", label=label)
        else:
            axes.set_title("no suggestion: the loss does not fall by more than its noise")
        high = max(self.smoothed[: self.smoothed.index(low) + 1])
        room = max(0.3 * (high - low), 0.05 * abs(high))
        axes.set(xscale="log", xlabel="training.learning_rate", ylabel="loss")
        axes.set_ylim(low - room, high + 2 * room)
        axes.legend()
        figure.savefig(plot_path, dpi=120)
        return numbers, plot_path


def analyze_sweep(
    rates: Sequence[float], losses: Sequence[float], *, is_diverged: bool
) -> LearningRateSweep:
    """Find the suggested rate of a sweep, and the rate at which the smoothed loss is lowest.

    Args:
        rates: Learning rate of every step, ascending.
        losses: Total loss of every step.
        is_diverged: Whether the sweep ended because the loss diverged.

    Raises:
        RunError: If there are fewer than three losses.
    """
    if len(losses) < 3:
        raise RunError(
            f"lr-find: the loss diverged after {Count(len(losses)):step}, at a learning rate of "
            f"{rates[max(0, len(losses) - 1)]:.2g}; start lower (--first) or check the data"
        )
    smoothed = smooth_losses(losses)
    lowest = int(np.argmin(smoothed))
    fall = measure_fall(losses)
    suggestion = None
    if fall.errors >= CLEAR_FALL:
        slopes = np.gradient(smoothed, np.log10(rates))[fall.start : lowest + 1]
        suggestion = float(rates[fall.start + int(np.argmin(slopes))])
    return LearningRateSweep(
        tuple(rates),
        tuple(losses),
        tuple(smoothed),
        suggestion=suggestion,
        lowest=float(rates[lowest]),
        diverged=float(rates[-1]) if is_diverged else None,
        fall=fall,
    )


def measure_fall(losses: Sequence[float]) -> Fall:
    """Return the largest fall of the smoothed loss to its lowest point, and its significance.

    The noise is estimated from the differences between each loss and the mean of its neighbors,
    which a trend does not affect (Gasser, Sroka and Jennen-Steinmetz 1986, "Residual variance and
    residual pattern in nonlinear regression"); their 75th percentile replaces the mean square, so
    that the spikes at too high rates do not count as noise. The maximum over all starting points is
    larger than a single difference. `CLEAR_FALL` takes this into account: of simulated sweeps
    without a trend, at most 1 in 100 reach it, for 10 to 200 steps with normal, exponential or
    log-normal losses.

    Args:
        losses: Total loss of every step, at least three.
    """
    values, smoothed = np.asarray(losses), np.asarray(smooth_losses(losses))
    lowest = int(np.argmin(smoothed))
    used = values[: max(lowest + 1, 12)]
    residuals = np.abs(used[1:-1] - (used[:-2] + used[2:]) / 2)
    noise = float(np.percentile(residuals, 75)) / (NORMAL_QUARTILE * math.sqrt(1.5))
    if lowest <= FIRST_SMOOTHED or smoothed[FIRST_SMOOTHED:lowest].max() <= smoothed[lowest]:
        return Fall(lowest, 0.0, noise, 0.0)
    starts = np.arange(FIRST_SMOOTHED, lowest)
    steps = np.append(starts, lowest) + 1
    # Variance of the bias-corrected moving average of independent losses with variance 1.
    decayed = SMOOTHING**steps
    variances = (1 - SMOOTHING) / (1 + SMOOTHING) * (1 + decayed) / (1 - decayed)
    falls = smoothed[starts] - smoothed[lowest]
    errors = falls / np.maximum(noise * np.sqrt(variances[:-1] + variances[-1]), 1e-12)
    best = int(np.argmax(errors))
    return Fall(int(starts[best]), float(falls[best]), noise, float(errors[best]))


def smooth_losses(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, bias-corrected as in Adam."""
    mean, smoothed = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING**step))
    return smoothed


def find_learning_rate(
    recipe: Recipe,
    *,
    first: float = 1e-6,
    last: float = 1.0,
    steps: int = 100,
    data_root: Path | None = None,
    console: Console | None = None,
) -> LearningRateSweep:
    """Sweep `training.learning_rate` on a recipe's model and training data; discard the model.

    All other settings are those of the recipe (optimizer, clipping, rates by stage and head,
    augmentation), except that weight averaging, accumulation, gradual unfreezing and the schedule
    are off.

    Args:
        recipe: Recipe to find a learning rate for.
        first: Learning rate of the first step.
        last: Learning rate of the last step, unless the loss diverges before.
        steps: Number of steps, at least 10; each takes one batch.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress; default: standard error.

    Raises:
        ResnetTasksError: If the recipe, the data or the weights are invalid.
        RunError: If the range of rates is invalid, or the loss diverges within three steps.
    """
    check_range(first, last, steps)
    rates = [float(rate) for rate in np.geomspace(first, last, steps)]
    overrides = {
        "training.ema": 0.0,
        "training.unfreeze": (),
        "training.accumulation": 1,
        "training.non_finite": "stop",  # a loss that is not finite ends the sweep
    }
    setup = TrainingSetup.from_recipe(replace_settings(recipe, overrides), data_root=data_root)
    trial = TrialTraining(setup.model, setup.samples, setup.recipe.training)
    console = console or Console(stderr=True)
    console.print(
        f"lr-find: {Count(steps):step} with learning rates from {first:.2g} to {last:.2g}, or until"
        " the loss diverges",
        highlight=False,
    )
    return _sweep_rates(trial, rates, console)


def check_range(first: float, last: float, steps: int) -> None:
    """Require a range of learning rates that can be swept.

    Raises:
        RunError: If a rate is not a positive number, the rates do not grow, or there are fewer than
            10 steps.
    """
    if not 0 < first < last < math.inf or steps < 10:
        raise RunError(
            f"lr-find: a sweep from {first} to {last} in {Count(steps):step} is not possible; "
            "the first rate must be above 0 and below the last one, with at least 10 steps"
        )


def _sweep_rates(
    trial: TrialTraining, rates: Sequence[float], console: Console
) -> LearningRateSweep:
    base, losses = trial.options.learning_rate, list[float]()
    is_diverged = False
    with trial.enter_training_mode(), track_progress(console, "Sweeping", len(rates)) as advance:
        for group in trial.iter_batches():
            try:
                total = trial.run_step(group, rates[len(losses)] / base).total
            except NonFiniteLossError:
                is_diverged = True
                break
            if total is None:
                continue  # no image of the step is annotated for any head
            losses.append(total)
            advance(detail=f"loss {total:.4g} at rate {rates[len(losses) - 1]:.1e}")
            smoothed = smooth_losses(losses)
            is_diverged = not math.isfinite(losses[-1]) or smoothed[-1] > DIVERGED * min(smoothed)
            if is_diverged or len(losses) == len(rates):
                break
    return analyze_sweep(rates[: len(losses)], losses, is_diverged=is_diverged)
