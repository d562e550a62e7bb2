"""Typed view of a run folder's contents, read without executing plugins and without the dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.assemble.split_files import Split
from resnet_tasks.errors import RunError
from resnet_tasks.files.partial_paths import is_partial
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.report.history import History, read_history
from resnet_tasks.run_folder.checkpoint import (
    find_weights_file,
    has_checkpoint,
    require_weights_version,
)
from resnet_tasks.run_folder.files import DETAILS, METRICS
from resnet_tasks.run_folder.read import read_object
from resnet_tasks.runs.evaluation_names import parse_evaluated_split

Interval = tuple[float, float]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Suffixes of tensor names that are stored with the weights but are not parameters."""


@dataclass(frozen=True)
class Score:
    """Value of a metric with its 95 % interval.

    Attributes:
        value: Value; None if it is undefined.
        interval: Lower and upper end; None if no interval was computed.
    """

    value: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class MetricView(Score):
    """Metric of one head.

    Attributes:
        per_class: Class name -> score of the class.
        unit: Unit such as `px` or `mm`; empty for fractions of 1.
        lower_is_better: Whether lower values are better, as for distances and errors.
    """

    per_class: dict[str, Score] = field(default_factory=dict)
    unit: str = ""
    lower_is_better: bool = False


@dataclass(frozen=True)
class EvaluationView:
    """Contents of one folder below `evaluations/`.

    Attributes:
        name: Name of the folder.
        folder: Path of the folder.
        heads: Head name -> metric name -> metric, in the order of the file.
        details: Head name -> curves and tables, see `Evaluation.details`; empty if there are none.
        metadata: Other keys of `metrics.json`: protocol, checkpoint, data, versions, ...
    """

    name: str
    folder: Path
    heads: dict[str, dict[str, MetricView]]
    details: dict[str, dict[str, Any]]
    metadata: dict[str, Any]

    @property
    def has_intervals(self) -> bool:
        """True if any metric has an interval."""
        return any(metric.interval for head in self.heads.values() for metric in head.values())

    @property
    def split(self) -> Split | None:
        """Split of the recipe that was evaluated; None for another file."""
        return parse_evaluated_split(self.name)


@dataclass(frozen=True)
class RunView:
    """Contents of a run folder, except for the weights themselves.

    Attributes:
        folder: Path of the run folder.
        recipe: Resolved recipe of the run.
        recipe_text: Text of `recipe.yaml`.
        labels: Categories of the dataset and classes of every head.
        history: Training history from the log.
        evaluations: Evaluations, latest first.
        parameters: Part of the model -> number of its parameters, frozen ones included; empty
            without a checkpoint.
        weights_bytes: Size of the weights file for prediction, bytes; None without a checkpoint.
    """

    folder: Path
    recipe: Recipe
    recipe_text: str
    labels: Labels
    history: History
    evaluations: tuple[EvaluationView, ...]
    parameters: dict[str, int]
    weights_bytes: int | None

    def find_evaluation(self, name: str | None = None) -> EvaluationView | None:
        """Return the evaluation of that name; without a name the latest, or None if there is none.

        Raises:
            RunError: If there is no evaluation of that name.
        """
        for evaluation in self.evaluations:
            if name in (None, evaluation.name):
                return evaluation
        if name is None:
            return None
        names = ", ".join(evaluation.name for evaluation in self.evaluations) or "none"
        raise RunError(
            f"{self.folder} has no evaluation {name!r} (it has: {names}); create it with "
            f"`resnet-tasks evaluate {self.folder}`"
        )


def read_run(folder: Path) -> RunView:
    """Read a run folder, finished or not.

    Raises:
        RunError: If it is not a run folder, or a file in it is damaged.
        RecipeError: If its recipe is damaged.
    """
    run = RunDirectory.read(folder)
    evaluations = [
        _read_evaluation(path.parent)
        for path in folder.glob("evaluations/*/metrics.json")
        if not is_partial(path.parent)
    ]
    evaluations.sort(
        key=lambda evaluation: (str(evaluation.metadata.get("date", "")), evaluation.name),
        reverse=True,
    )
    weights = _find_weights_file(folder)
    return RunView(
        folder=folder,
        recipe=run.recipe,
        recipe_text=(folder / "recipe.yaml").read_text(encoding="utf-8"),
        labels=run.labels,
        history=read_history(folder / "log.jsonl"),
        evaluations=tuple(evaluations),
        parameters={} if weights is None else _count_parameters(weights),
        weights_bytes=None if weights is None else weights.stat().st_size,
    )


def _read_evaluation(folder: Path) -> EvaluationView:
    metadata = read_object(folder / "metrics.json", METRICS)
    heads: dict[str, dict[str, MetricView]] = {}
    for key, raw in metadata.pop("metrics").items():
        head, _, name = key.partition("/")
        heads.setdefault(head, {})[name] = _parse_metric(raw)
    extra = folder / "details.json"
    details = read_object(extra, DETAILS) if extra.exists() else {}
    return EvaluationView(folder.name, folder, heads, details, metadata)


def _parse_metric(raw: Mapping[str, Any]) -> MetricView:
    intervals = raw.get("per_class_interval") or {}
    return MetricView(
        value=_parse_value(raw["value"]),
        interval=_parse_interval(raw.get("interval")),
        per_class={
            name: Score(_parse_value(value), _parse_interval(intervals.get(name)))
            for name, value in (raw.get("per_class") or {}).items()
        },
        unit=str(raw.get("unit") or ""),
        lower_is_better=bool(raw.get("lower_is_better")),
    )


def parse_score(raw: Mapping[str, Any]) -> Score:
    """Return the value and the interval of a JSON object."""
    return Score(_parse_value(raw["value"]), _parse_interval(raw.get("interval")))


def _parse_value(raw: Any) -> float | None:
    return None if raw is None else float(raw)


def _parse_interval(raw: Any) -> Interval | None:
    return None if raw is None else (float(raw[0]), float(raw[1]))


def _find_weights_file(folder: Path) -> Path | None:
    """Return the path of the weights for prediction; None without a checkpoint.

    Raises:
        RunError: If the checkpoint lacks its weights or averaged weights.
    """
    last = folder / "checkpoints" / "last"
    return find_weights_file(last) if has_checkpoint(last) else None


def _count_parameters(weights: Path) -> dict[str, int]:
    """Count the parameters per part of the model from the header of the weights file.

    Raises:
        RunError: If the file is damaged or was written by a newer version.
    """
    require_weights_version(weights)
    counts: dict[str, int] = {}
    with safe_open(weights, "numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            part = _find_part(name)
            if part is not None:
                size = 1
                for side in tensors.get_slice(name).get_shape():
                    size *= side
                counts[part] = counts.get(part, 0) + size
    return counts


def _find_part(tensor: str) -> str | None:
    """Return `backbone` or a head's name; None for tensors that are not parameters."""
    parts = tensor.split(".")
    if len(parts) < 2 or parts[-1] in BUFFERS:
        return None
    return parts[1] if parts[0] == "heads" and len(parts) > 2 else parts[0]
