"""Two runs on the same pictures: what differs, and whether that could be chance."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from resnet_tasks.assemble.splits import Split, find_data, sources_of
from resnet_tasks.errors import DataError, RunError
from resnet_tasks.evaluation.intervals import Resampling
from resnet_tasks.evaluation.paired import Difference, Paired, compare
from resnet_tasks.metrics import HEADLINE, Metric
from resnet_tasks.training.checkpoint import write_json
from resnet_tasks.training.inference import PLAIN, Inference
from resnet_tasks.training.judging import file_sha256, number, weights_sha256
from resnet_tasks.training.run import Run


@dataclass(frozen=True)
class Judged:
    """Which evaluation of a run is meant: the arguments of `Run.evaluate`."""

    split: Split = "val"
    annotations: Path | None = None
    images: Path | None = None
    checkpoint: str = "last"
    data_root: Path | None = None
    how: Inference = PLAIN

    def folder(self, run: Run) -> Path:
        """Where `run` keeps it."""
        return run.evaluation_folder(
            self.split, annotations=self.annotations, checkpoint=self.checkpoint, how=self.how
        )

    def data(self, run: Run) -> dict[str, str]:
        """The files that `run` is judged on, and their hashes."""
        if self.annotations is not None:
            paths = [self.annotations]
        else:
            root = find_data(run.recipe, self.data_root)
            paths = [root / each.annotations for each in sources_of(run.recipe, self.split)]
        return {str(path): file_sha256(path) for path in paths if path.is_file()}

    def make(self, run: Run, console: Console) -> None:
        """Evaluates `run`."""
        run.evaluate(
            self.split,
            annotations=self.annotations,
            images=self.images,
            checkpoint=self.checkpoint,
            how=self.how,
            data_root=self.data_root,
            console=console,
        )


@dataclass(frozen=True)
class Kept:
    """An evaluation as it lies in a run.

    Attributes:
        about: All of `metrics.json`.
        metrics: `head/metric` -> metric.
        resampling: Its metrics on resampled data sets; None where no intervals were made.
    """

    about: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    resampling: Resampling | None

    @classmethod
    def read(cls, folder: Path) -> Kept:
        """Reads an evaluation folder.

        Raises:
            DataError: If there is none, or it is not of this version.
        """
        path = folder / "metrics.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            metrics = {name: metric_from_json(each) for name, each in about["metrics"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is no evaluation of this version ({error}); evaluate the run again"
            ) from None
        stored = folder / "resamples.npz"
        return cls(about, metrics, Resampling.load(stored) if stored.is_file() else None)


def metric_from_json(plain: Mapping[str, Any]) -> Metric:
    """The inverse of `judging.metric_json`."""

    def pair(value: list[float] | None) -> tuple[float, float] | None:
        return None if value is None else (value[0], value[1])

    return Metric(
        plain["value"],
        plain.get("per_class", {}),
        pair(plain["interval"]),
        {name: pair(each) for name, each in plain.get("per_class_interval", {}).items()},
        plain.get("unit", ""),
        plain.get("lower_is_better", False),
    )


def check_pair(run: Run, other: Run, judged: Judged) -> None:
    """Refuses runs that cannot be compared, before anything is evaluated.

    Raises:
        DataError: If they are judged on other files.
        RunError: If both are one run, one of them makes no intervals, or it lacks a calibration
            that is asked for.
    """
    if run.directory.resolve() == other.directory.resolve():
        raise RunError(f"{run.directory} cannot be compared with itself; name another run")
    for each in (run, other):
        each.require(judged.checkpoint, judged.how)
        if not each.recipe.evaluation.resamples:
            raise RunError(
                f"{each.directory} is evaluated without intervals (evaluation.resamples is 0), "
                "which a comparison in pairs needs; set it in its recipe.yaml"
            )
    data, other_data = judged.data(run), judged.data(other)
    if sorted(data.values()) != sorted(other_data.values()):
        raise DataError(
            f"{run.directory} is judged on {', '.join(data)}, {other.directory} on "
            f"{', '.join(other_data) or 'files that are not there'}, which hold something else; "
            "name one file for both with --annotations FILE --images DIR"
        )


def compare_runs(run: Run, other: Run, judged: Judged, *, console: Console) -> tuple[Paired, Path]:
    """Compares `run`, which was evaluated just now, with `other` on the same pictures.

    Every evaluation keeps its metrics on all resampled data sets; which pictures those hold depends
    on the pictures and the seed alone. So what `other` kept is used as it is, unless its weights,
    data or number of resamples have changed since: then it is evaluated again.

    Args:
        run: Whose evaluation folder gets `paired-<other>.json`.
        other: To compare with.
        judged: Which evaluation.
        console: For progress.

    Returns:
        What was found, and the file it was written to.

    Raises:
        DataError: If `run` has no such evaluation, or the two judge no head on the same pictures.
        RunError: As in `check_pair`.
    """
    check_pair(run, other, judged)
    mine = Kept.read(judged.folder(run))
    if mine.resampling is None:
        raise DataError(f"{judged.folder(run)} holds no resamples.npz; evaluate the run again")
    theirs = _still_true(other, judged, mine)
    if theirs is None:
        console.print(f"evaluating {other.directory}", highlight=False, markup=False)
        judged.make(other, console)
        theirs = Kept.read(judged.folder(other))
    assert theirs.resampling is not None
    found = compare((mine.metrics, mine.resampling), (theirs.metrics, theirs.resampling))
    name = re.sub(r"[^\w.-]", "_", other.directory.resolve().name)
    path = judged.folder(run) / f"paired-{name}.json"
    data = mine.about["data"]
    about = {"run": str(run.directory), "with": str(other.directory), "data": data}
    write_json(path, {**about, "checkpoint": judged.checkpoint, **found.to_json()})
    return found, path


def _still_true(run: Run, judged: Judged, mine: Kept) -> Kept | None:
    """The evaluation that `run` has kept, if evaluating again would give the same."""
    try:
        kept = Kept.read(judged.folder(run))
    except DataError:
        return None
    same = (
        not judged.how.calibrated  # which may have been fitted again since
        and kept.resampling is not None
        and mine.resampling is not None
        and kept.resampling.bootstrap == mine.resampling.bootstrap
        and _digests(kept) == _digests(mine)
        and kept.about.get("weights") == weights_sha256(run.checkpoint(judged.checkpoint))
        and kept.about.get("versions") == mine.about.get("versions")
    )
    return kept if same else None


def _digests(kept: Kept) -> list[str]:
    return sorted(kept.about.get("data", {}).values())


def paired_table(found: Paired, title: str = "") -> Table:
    """The differences, for a console; the headline metrics also by class, if there are several."""
    table = Table(title=Text(title), title_justify="left")
    table.add_column("metric", overflow="fold")
    for heading in ("run", "other", "difference [95 % interval]", "chance?"):
        justify: JustifyMethod = "left" if heading == "chance?" else "right"
        table.add_column(heading, justify=justify, no_wrap=heading in ("run", "other"))
    for name, each in found.differences.items():
        table.add_row(Text(name), *_cells(each))
        if len(each.per_class) > 1 and name.rpartition("/")[2] in HEADLINE:
            for label, one in each.per_class.items():
                table.add_row(Text(f"  {label}"), *_cells(one), style="dim")
    return table


def _cells(each: Difference) -> tuple[Text, ...]:
    unit = f" {each.unit}" if each.unit else ""
    return (
        Text(_short(each.value) + unit),
        Text(_short(each.other) + unit),
        Text(number(each.difference, each.interval, signed=True)),
        Text(_verdict(each)),
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _verdict(each: Difference) -> str:
    if each.interval is None:
        return "-"
    p = "" if each.p is None else f" (p {each.p:.3f})"
    if each.could_be_chance:
        return f"maybe{p}"
    is_better = (each.interval[0] > 0) != each.lower_is_better
    return f"{'better' if is_better else 'worse'}{p}"
