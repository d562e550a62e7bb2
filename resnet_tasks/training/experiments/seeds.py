"""One recipe several times, as over seeds: a run each, then mean and deviation of every metric."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.training.finetune_recipe import finetune_recipe

SUMMARY = "seeds.json"
REQUESTED_FILE = "asked.json"
"""The recipes of the runs, as they were asked for."""
DEVIATION = "standard deviation of a sample (n - 1)"


@dataclass(frozen=True)
class RepeatedRun:
    """One of several runs of a recipe.

    Attributes:
        label: For people.
        recipe: What to run.
        folder: The run's.
    """

    label: str
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class MetricSpread:
    """One metric over several runs.

    Attributes:
        values: Of every run; None where it is not defined.
        mean: Of those that are; None where there is none.
        deviation: Standard deviation of a sample (n - 1); None below two values.
    """

    values: tuple[float | None, ...]
    mean: float | None
    deviation: float | None

    @classmethod
    def from_values(cls, values: Sequence[float | None]) -> MetricSpread:
        """The spread of some values."""
        defined = [value for value in values if value is not None]
        return cls(
            tuple(values),
            fmean(defined) if defined else None,
            stdev(defined) if len(defined) > 1 else None,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"mean": self.mean, "deviation": self.deviation, "values": list(self.values)}


def finetune_seeds(
    recipe: Recipe,
    count: int,
    *,
    out: Path,
    data_root: Path | None = None,
    console: Console | None = None,
) -> dict[str, MetricSpread]:
    """Fine-tunes a recipe with the seeds `training.seed`, `training.seed + 1`, ...

    Every run has a folder `out/seed-N`. Asked again, finished runs are kept, one that was
    interrupted goes on, and the others follow. `out/seeds.json` is written when all are done.

    Args:
        recipe: What to run.
        count: How many seeds, at least two.
        out: Folder of the runs.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
        console: For progress and the table.

    Returns:
        Metric -> its spread, judged on val with the last checkpoint of each run.

    Raises:
        RunError: If a folder holds a run of another recipe.
        Stopped: After Ctrl-C or SIGTERM; the same command goes on.
    """
    if count < 2:
        raise RunError(f"--seeds is {count}; a deviation takes at least 2")
    console = console or Console()
    repeats = [
        RepeatedRun(f"seed {seed}", replace_seed(recipe, seed), out / f"seed-{seed}")
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
    """Makes the runs that are not there yet, goes on with those that were stopped.

    Args:
        repeats: Which, in order.
        out: Folder of the runs.
        data_root: As in `finetune_recipe`.
        console: For progress.

    Returns:
        Metric -> its spread, judged on val with the last checkpoint of each run.

    Raises:
        RunError: If a folder holds a run of another recipe.
        Stopped: After Ctrl-C or SIGTERM; asked again, it goes on.
    """
    # All folders are looked at first: what belongs to another recipe shall not show after hours.
    requested_recipes = _read_requested(out)
    for repeat in repeats:
        _require_same_recipe(repeat, requested_recipes.get(repeat.folder.name))
    make_folder(out)
    current_recipes = {run.folder.name: _dump_without_plugins(run.recipe) for run in repeats}
    write_json(out / REQUESTED_FILE, {**requested_recipes, **current_recipes})
    for repeat in repeats:
        if _is_evaluated(repeat.folder):
            console.print(f"{repeat.label}: {repeat.folder} is done and kept", highlight=False)
        elif (repeat.folder / "checkpoints").exists():
            saved_recipe = load_recipe(repeat.folder / "recipe.yaml")
            finetune_recipe(
                saved_recipe, resume=repeat.folder, data_root=data_root, console=console
            )
        else:
            finetune_recipe(repeat.recipe, out=repeat.folder, data_root=data_root, console=console)
    return read_spreads([run.folder for run in repeats])


def replace_seed(recipe: Recipe, seed: int) -> Recipe:
    """The same recipe with another `training.seed`."""
    training = recipe.training.model_copy(update={"seed": seed})
    return recipe.model_copy(update={"training": training})


def read_spreads(folders: Sequence[Path]) -> dict[str, MetricSpread]:
    """Metric -> its spread over judged runs; a run without it counts as not defined.

    Raises:
        RunError: If a run's metrics cannot be read.
    """
    runs = [_read_metrics(folder) for folder in folders]
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: MetricSpread.from_values([run.get(name) for run in runs]) for name in names}


def build_spread_table(
    spreads: Mapping[str, MetricSpread], title: str, pooled: Mapping[str, Metric] | None = None
) -> Table:
    """Metric, mean, deviation and the values, for people.

    Args:
        spreads: By metric.
        title: Of the table.
        pooled: The metrics over the images of all runs together, as a further column.
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
        raise RunError(f"training.seed is {first}; {count} seeds from there go beyond 2^32 - 1")
    return range(first, first + count)


def _format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _is_evaluated(folder: Path) -> bool:
    return (folder / "evaluations" / "val" / "metrics.json").is_file()


def _read_metrics(folder: Path) -> dict[str, float | None]:
    path = folder / "evaluations" / "val" / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        return {name: metric["value"] for name, metric in metrics.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); make it again with `resnet-tasks evaluate {folder}`"
        ) from None


def _read_requested(out: Path) -> dict[str, Any]:
    """Folder name -> the recipe as it was asked for, of runs that are there."""
    path = out / REQUESTED_FILE
    try:
        recipes: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read ({error}); it tells which recipe the runs are of: choose "
            "another --out, or remove it if you know"
        ) from None
    return recipes


def _require_same_recipe(repeat: RepeatedRun, requested: dict[str, Any] | None) -> None:
    """Refuses to go on in a folder of another recipe.

    What a run keeps of its recipe is filled in: what was measured, what it extends.
    """
    if not (repeat.folder / "recipe.yaml").is_file():
        return
    previous = requested or _dump_without_plugins(load_recipe(repeat.folder / "recipe.yaml"))
    now = _dump_without_plugins(repeat.recipe)
    changed_keys = [key for key in now if previous.get(key) != now[key]]
    if changed_keys:
        raise RunError(
            f"{repeat.folder} is a run of another recipe ({', '.join(changed_keys)} differ); "
            "choose another "
            "--out"
        )


def _dump_without_plugins(recipe: Recipe) -> dict[str, Any]:
    """Everything of a recipe but its plugins, of which a run keeps copies."""
    values: dict[str, Any] = json.loads(recipe.model_dump_json(exclude={"plugins"}))
    return values
