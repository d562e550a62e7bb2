"""Paired comparison of two runs on the same images: differences and their significance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from resnet_tasks.assemble.split_files import Split, find_recipe_data, get_sources
from resnet_tasks.data.statistics.class_counts import NUM_EXTREMES
from resnet_tasks.errors import DataError, FormatVersionError, RunError, shorten_name
from resnet_tasks.evaluation.metric_tables import CLASS_ROWS, format_number
from resnet_tasks.evaluation.uncertainty.bootstrap import Resampling
from resnet_tasks.evaluation.uncertainty.paired_test import (
    MetricDifference,
    PairedComparison,
    compare_evaluations,
)
from resnet_tasks.files.atomic import write_json
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.number_formats import Count, format_p_value
from resnet_tasks.run_folder.files import METRICS
from resnet_tasks.run_folder.read import read_object
from resnet_tasks.runs.evaluate_run import weights_sha256
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions
from resnet_tasks.runs.run import Run
from resnet_tasks.runtime.console import Console, Text
from resnet_tasks.structures.evaluation import HEADLINE, Metric


@dataclass(frozen=True)
class EvaluationRequest:
    """Arguments of `Run.evaluate` that identify an evaluation of a run."""

    split: Split = "val"
    annotations: Path | None = None
    images: Path | None = None
    checkpoint: str = "last"
    data_root: Path | None = None
    inference: InferenceOptions = PLAIN_INFERENCE

    def get_folder(self, run: Run) -> Path:
        """Return the folder of the evaluation in `run`."""
        return run.get_evaluation_folder(
            self.split,
            annotations=self.annotations,
            checkpoint=self.checkpoint,
            inference=self.inference,
        )

    def hash_files(self, run: Run) -> dict[str, str]:
        """Return path -> SHA-256 hex digest of the annotation files that `run` is evaluated on."""
        if self.annotations is not None:
            paths = [self.annotations]
        else:
            root = find_recipe_data(run.recipe, self.data_root)
            paths = [root / source.annotations for source in get_sources(run.recipe, self.split)]
        return {str(path): compute_sha256(path) for path in paths if path.is_file()}

    def evaluate(self, run: Run, console: Console) -> None:
        """Evaluate `run` with the arguments of this request."""
        run.evaluate(
            self.split,
            annotations=self.annotations,
            images=self.images,
            checkpoint=self.checkpoint,
            inference=self.inference,
            data_root=self.data_root,
            console=console,
        )


@dataclass(frozen=True)
class SavedEvaluation:
    """Evaluation as stored in a run folder.

    Attributes:
        metadata: Full contents of `metrics.json`.
        metrics: `head/metric` -> metric.
        resampling: Metrics on the resampled datasets; None if no intervals were computed.
    """

    metadata: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    resampling: Resampling | None

    @classmethod
    def read(cls, folder: Path, remedy: str = "") -> SavedEvaluation:
        """Read an evaluation folder.

        Args:
            folder: Folder of the evaluation.
            remedy: Advice for the message if it is damaged; default: evaluate the run again.

        Raises:
            RunError: If there is no evaluation, or a damaged one or one of a newer version.
        """
        metadata = read_object(folder / "metrics.json", METRICS, remedy)
        metrics = {name: metric_from_json(metric) for name, metric in metadata["metrics"].items()}
        resamples_path = folder / "resamples.npz"
        return cls(
            metadata, metrics, Resampling.load(resamples_path) if resamples_path.exists() else None
        )


def metric_from_json(plain: Mapping[str, Any]) -> Metric:
    """Return the metric from its JSON form; the inverse of `metric_tables.metric_to_json`."""

    def to_pair(value: list[float] | None) -> tuple[float, float] | None:
        return None if value is None else (value[0], value[1])

    return Metric(
        plain["value"],
        plain.get("per_class", {}),
        to_pair(plain.get("interval")),
        {name: to_pair(interval) for name, interval in plain.get("per_class_interval", {}).items()},
        plain.get("unit", ""),
        plain.get("lower_is_better", False),
    )


def check_comparable(run: Run, other: Run, request: EvaluationRequest) -> None:
    """Reject runs that cannot be compared, before anything is evaluated.

    Raises:
        DataError: If the runs are evaluated on different files.
        RunError: If both are the same run, one of them computes no intervals, or one of them lacks
            a requested calibration.
    """
    if run.directory.resolve() == other.directory.resolve():
        raise RunError(f"{run.directory} cannot be compared with itself; give another run")
    for compared_run in (run, other):
        compared_run.load_calibration(request.checkpoint, request.inference)
        if not compared_run.recipe.evaluation.resamples:
            raise RunError(
                f"{compared_run.directory} is evaluated without confidence intervals "
                "(evaluation.resamples is 0), but a paired comparison needs them; set "
                f"evaluation.resamples in {compared_run.directory / 'recipe.yaml'}"
            )
    data, other_data = request.hash_files(run), request.hash_files(other)
    if sorted(data.values()) != sorted(other_data.values()):
        raise DataError(
            f"{run.directory} is evaluated on {', '.join(data)}, {other.directory} on "
            f"{', '.join(other_data) or 'files that do not exist'}, whose contents differ; "
            "give one file for both with --annotations FILE --images DIR"
        )


def compare_runs(
    run: Run, other: Run, request: EvaluationRequest, *, console: Console
) -> tuple[PairedComparison, Path]:
    """Compare `run`, which has just been evaluated, with `other` on the same images.

    Every evaluation stores its metrics on all resampled datasets. The images in these datasets
    depend only on the images of the evaluation and on the seed. The stored evaluation of `other` is
    therefore reused. `other` is evaluated again only if its weights, its data, the number of
    resamples or the package versions have changed since, or if a calibration is requested.

    Args:
        run: Run whose evaluation folder receives `paired-<other>.json`.
        other: Run to compare with.
        request: Evaluation to compare.
        console: Console for progress.

    Returns:
        Comparison, and path of the file that it was written to.

    Raises:
        DataError: If no head is evaluated on the same images in both.
        RunError: If the runs cannot be compared (see `check_comparable`), or the evaluation of one
            of them is missing or damaged.
    """
    check_comparable(run, other, request)
    evaluation = SavedEvaluation.read(request.get_folder(run))
    if evaluation.resampling is None:
        raise DataError(f"{request.get_folder(run)} has no resamples.npz; evaluate the run again")
    other_evaluation = _load_if_current(other, request, evaluation)
    if other_evaluation is None:
        console.print(f"evaluating {other.directory}", highlight=False, markup=False)
        request.evaluate(other, console)
        other_evaluation = SavedEvaluation.read(request.get_folder(other))
    assert other_evaluation.resampling is not None
    comparison = compare_evaluations(
        (evaluation.metrics, evaluation.resampling),
        (other_evaluation.metrics, other_evaluation.resampling),
    )
    name = re.sub(r"[^\w.-]", "_", other.directory.resolve().name)
    path = request.get_folder(run) / f"paired-{name}.json"
    data = evaluation.metadata["data"]
    metadata = {"run": str(run.directory), "with": str(other.directory), "data": data}
    write_json(path, {**metadata, "checkpoint": request.checkpoint, **comparison.to_json()})
    return comparison, path


def _load_if_current(
    run: Run, request: EvaluationRequest, evaluation: SavedEvaluation
) -> SavedEvaluation | None:
    """Return the stored evaluation of `run`, or None if a new one could differ."""
    if not (request.get_folder(run) / "metrics.json").exists():
        return None
    try:
        saved = SavedEvaluation.read(request.get_folder(run))
    except FormatVersionError as error:
        if error.is_newer:
            raise
        return None
    same = (
        not request.inference.calibrated  # the calibration may have been refitted since
        and saved.resampling is not None
        and evaluation.resampling is not None
        and saved.resampling.bootstrap == evaluation.resampling.bootstrap
        and _list_digests(saved) == _list_digests(evaluation)
        and saved.metadata.get("weights") == weights_sha256(run.find_checkpoint(request.checkpoint))
        and saved.metadata.get("versions") == evaluation.metadata.get("versions")
    )
    return saved if same else None


def _list_digests(saved: SavedEvaluation) -> list[str]:
    return sorted(saved.metadata.get("data", {}).values())


NOT_SIGNIFICANT = "n.s."
"""Result of a difference that may be due to chance."""


def build_paired_table(comparison: PairedComparison, title: str = "") -> Table:
    """Return the table of differences; headline metrics are also listed per class.

    Of many classes, those with the lowest and the highest differences are listed.
    """
    table = Table(title=Text(title), title_justify="left")
    table.add_column("metric", overflow="fold")
    for heading in ("run", "other", "difference\n[95 % interval]", "p", "result"):
        justify: JustifyMethod = "left" if heading == "result" else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for name, difference in comparison.differences.items():
        table.add_row(Text(name), *_format_cells(difference))
        if len(difference.per_class) > 1 and name.rpartition("/")[2] in HEADLINE:
            names, num_others = _select_classes(difference)
            for label in names:
                # A long name would be folded into several lines.
                shown_label = shorten_name(label) if num_others else label
                cells = _format_cells(difference.per_class[label])
                table.add_row(Text(f"  {shown_label}"), *cells, style="dim")
            if num_others:
                table.add_row(Text(f"  ({Count(num_others):more class})"), style="dim")
    all_differences = [
        part
        for difference in comparison.differences.values()
        for part in (difference, *difference.per_class.values())
    ]
    if any(difference.could_be_chance for difference in all_differences):
        table.caption = Text(f"{NOT_SIGNIFICANT}: not significant, the 95 % interval contains 0")
        table.caption_justify = "left"
    return table


def _select_classes(difference: MetricDifference) -> tuple[list[str], int]:
    """Return the classes to list, and the number of the others."""
    names = list(difference.per_class)
    if len(names) <= CLASS_ROWS:
        return names, 0
    defined = {
        name: value
        for name, class_difference in difference.per_class.items()
        if (value := class_difference.difference) is not None
    }
    ranked = sorted(defined, key=lambda name: defined[name])
    if len(ranked) > 2 * NUM_EXTREMES:
        ranked = [*ranked[:NUM_EXTREMES], *ranked[-NUM_EXTREMES:]]
    return ranked, len(names) - len(ranked)


def _format_cells(difference: MetricDifference) -> tuple[Text, ...]:
    unit = f" {difference.unit}" if difference.unit else ""
    return (
        Text(_format_value(difference.value) + unit),
        Text(_format_value(difference.other) + unit),
        Text(format_number(difference.difference, difference.interval, signed=True)),
        Text("-" if difference.p is None else format_p_value(difference.p)),
        Text(_describe_significance(difference)),
    )


def _format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _describe_significance(difference: MetricDifference) -> str:
    if difference.interval is None:
        return "-"
    if difference.could_be_chance:
        return NOT_SIGNIFICANT
    is_better = (difference.interval[0] > 0) != difference.lower_is_better
    return "better" if is_better else "worse"
