"""Repeated runs of one recipe, such as one per seed, with mean and deviation of every metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.files import METRICS, REQUESTED
from resnet_tasks.run_folder.read import read_object
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.training.finetune_recipe import finetune_recipe

SUMMARY = "seeds.json"
REQUESTED_FILE = "asked.json"
"""File with the recipes of the runs as requested; a run folder has the recipe with measured values
filled in."""
DEVIATION = "standard deviation of a sample (n - 1)"


@dataclass(frozen=True)
class RepeatedRun:
    """One of several runs of a recipe.

    Attributes:
        label: Name on the console, such as `seed 3`.
        recipe: Recipe to run.
        folder: Path of the run folder.
    """

    label: str
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class MetricSpread:
    """Spread of one metric over several runs.

    Attributes:
        values: Value of every run; None if it is undefined.
        mean: Mean of the defined values; None without any.
        deviation: Sample standard deviation (n - 1) of the defined values; None below two values.
    """

    values: tuple[float | None, ...]
    mean: float | None
    deviation: float | None

    @classmethod
    def from_values(cls, values: Sequence[float | None]) -> MetricSpread:
        """Compute the spread of one value per run; None marks an undefined value."""
        defined = [value for value in values if value is not None]
        return cls(
            tuple(values),
            fmean(defined) if defined else None,
            stdev(defined) if len(defined) > 1 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the spread as JSON-compatible values."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}


def finetune_seeds(
    recipe: Recipe,
    count: int,
    *,
    out: Path,
    data_root: Path | None = None,
    console: Console | None = None,
) -> dict[str, MetricSpread]:
    """Fine-tune a recipe with the seeds `training.seed`, `training.seed + 1`, ...

    Every run has a folder `out/seed-N`. When called again, the function keeps finished runs,
    resumes an interrupted one and starts the others. At the end it writes `out/seeds.json`.

    Args:
        recipe: Recipe to run.
        count: Number of seeds, at least 2.
        out: Path of the folder of the runs.
        data_root: Folder of the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: Console for progress and the table; default: standard output.

    Returns:
        Metric -> its spread, evaluated on val with the last checkpoint of every run.

    Raises:
        RunError: If `count` is below 2, or a folder has a run of another recipe.
        TrainingStopped: After Ctrl-C or SIGTERM; the same call resumes.
    """
    if count < 2:
        raise RunError(f"--seeds is {count}; a standard deviation needs at least 2 seeds")
    console = console or Console()
    repeats = [
        RepeatedRun(
            f"seed {seed}", replace_settings(recipe, {"training.seed": seed}), out / f"seed-{seed}"
        )
        for seed in _make_seeds(recipe.training.seed, count)
    ]
    spreads = run_repeats(repeats, out, data_root=data_root, console=console)
    write_json(
        out / SUMMARY,
        {
            "recipe": recipe.name,
            "split": "val",
            "checkpoint": "last",
            "deviation": DEVIATION,
            "seeds": [repeat.recipe.training.seed for repeat in repeats],
            "metrics": {name: spread.to_json() for name, spread in spreads.items()},
        },
    )
    console.print(
        build_spread_table(spreads, f"{recipe.name}: val, last checkpoint, {count} seeds")
    )
    console.print(f"numbers: {out / SUMMARY}", highlight=False)
    return spreads


def run_repeats(
    repeats: Sequence[RepeatedRun], out: Path, *, data_root: Path | None, console: Console
) -> dict[str, MetricSpread]:
    """Start the runs that do not exist yet, and resume those that were interrupted.

    Args:
        repeats: Runs, in order.
        out: Path of the folder of the runs.
        data_root: Folder of the datasets; None: the default of `finetune_recipe`.
        console: Console for progress.

    Returns:
        Metric -> its spread, evaluated on val with the last checkpoint of every run.

    Raises:
        RunError: If a folder has a run of another recipe.
        TrainingStopped: After Ctrl-C or SIGTERM; the same call resumes.
    """
    # Check all folders first, so that a run of another recipe is reported now and not after hours.
    requested_recipes = _read_requested(out)
    for repeat in repeats:
        _require_same_recipe(repeat, requested_recipes.get(repeat.folder.name))
    make_folder(out)
    current_recipes = {run.folder.name: _dump_without_plugins(run.recipe) for run in repeats}
    write_json(out / REQUESTED_FILE, {**requested_recipes, **current_recipes})
    for repeat in repeats:
        complete_run(repeat, data_root=data_root, console=console)
    return read_spreads([run.folder for run in repeats])


def complete_run(repeat: RepeatedRun, *, data_root: Path | None, console: Console) -> None:
    """Start a run that does not exist yet, resume it if it was interrupted, else keep it.

    The recipe of an existing run is not compared.

    Args:
        repeat: Run to complete.
        data_root: Folder of the datasets; None: the default of `finetune_recipe`.
        console: Console for progress.

    Raises:
        TrainingStopped: After Ctrl-C or SIGTERM; the same call resumes.
    """
    if _is_evaluated(repeat.folder):
        console.print(f"{repeat.label}: {repeat.folder} is already complete", highlight=False)
    elif (repeat.folder / "checkpoints").exists():
        run = Run.read(repeat.folder)
        finetune_recipe(run.recipe, resume=run, data_root=data_root, console=console)
    else:
        finetune_recipe(repeat.recipe, out=repeat.folder, data_root=data_root, console=console)


def read_spreads(folders: Sequence[Path]) -> dict[str, MetricSpread]:
    """Read the spread of every metric over evaluated runs.

    Args:
        folders: Paths of the run folders.

    Returns:
        Metric -> its spread; the value of a run without the metric is None.

    Raises:
        RunError: If the metrics of a run cannot be read.
    """
    runs = [_read_metrics(folder) for folder in folders]
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: MetricSpread.from_values([run.get(name) for run in runs]) for name in names}


def build_spread_table(
    spreads: Mapping[str, MetricSpread], title: str, pooled: Mapping[str, Metric] | None = None
) -> Table:
    """Build a table with the mean, deviation and values of every metric.

    Args:
        spreads: Metric -> its spread.
        title: Title of the table.
        pooled: Metrics over the images of all runs together, as an additional column; None: no
            such column.
    """
    table = Table(title=title)
    further = () if pooled is None else ("pooled [95 %]",)
    for heading in ("metric", "mean", "deviation", *further, "values"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, spread in spreads.items():
        values = "  ".join(_format_value(value) for value in spread.values)
        pooled_cells = [] if pooled is None else [_format_pooled(pooled.get(name))]
        table.add_row(
            name, _format_value(spread.mean), _format_value(spread.deviation), *pooled_cells, values
        )
    return table


def _format_pooled(metric: Metric | None) -> str:
    return "-" if metric is None else format_number(metric.value, metric.interval)


def _make_seeds(first: int, count: int) -> range:
    if first + count > 2**32:
        raise RunError(
            f"training.seed is {first}, so the last of {count} seeds would exceed 2^32 - 1; choose "
            "a smaller training.seed"
        )
    return range(first, first + count)


def _format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _is_evaluated(folder: Path) -> bool:
    return (folder / "evaluations" / "val" / "metrics.json").exists()


def _read_metrics(folder: Path) -> dict[str, float | None]:
    path = folder / "evaluations" / "val" / "metrics.json"
    remedy = f"recreate it with `resnet-tasks evaluate {folder}`"
    metrics = read_object(path, METRICS, remedy)["metrics"]
    return {name: metric["value"] for name, metric in metrics.items()}


def _read_requested(out: Path) -> dict[str, Any]:
    """Read the requested recipes of earlier runs: name of the run folder -> recipe values."""
    path = out / REQUESTED_FILE
    return read_object(path, REQUESTED) if path.exists() else {}


def _require_same_recipe(repeat: RepeatedRun, requested: dict[str, Any] | None) -> None:
    """Reject a folder that has a run of another recipe.

    The recipe in a run folder may differ from the requested one, because measured values and the
    heads of an extended run are filled in. It is compared only if the requested recipe was not
    recorded.

    Args:
        repeat: Run to start or resume.
        requested: Recipe values recorded when the run was started; None if not recorded.

    Raises:
        RunError: If the recipes differ in anything except plugins.
    """
    if not (repeat.folder / "recipe.yaml").is_file():
        return
    previous = requested or _dump_without_plugins(load_recipe(repeat.folder / "recipe.yaml"))
    now = _dump_without_plugins(repeat.recipe)
    changed_keys = [key for key in now if previous.get(key) != now[key]]
    if changed_keys:
        raise RunError(
            f"{repeat.folder} is a run of another recipe ({', '.join(changed_keys)} differ); "
            "choose another --out"
        )


def _dump_without_plugins(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's values without plugins: a run has copies of them under other paths."""
    values: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"plugins"}))
    return values
