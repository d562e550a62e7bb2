"""Contents of a run's page as rows, charts and sentences; the templates add the markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnet_tasks.assemble.split_files import read_sources
from resnet_tasks.errors import RunError
from resnet_tasks.number_formats import Count, format_duration
from resnet_tasks.report.charts import Chart
from resnet_tasks.report.datasets import (
    SplitView,
    as_dataset,
    locate_data_folder,
    read_evaluated_files,
    summarize_split,
)
from resnet_tasks.report.detail_charts import (
    ConfusionMatrix,
    build_confusion_matrix,
    draw_detail_charts,
)
from resnet_tasks.report.gallery import Gallery, draw_gallery
from resnet_tasks.report.learning_charts import draw_learning_charts
from resnet_tasks.report.page_fragments import PageFragment, build_fragment
from resnet_tasks.report.run_view import (
    SPLITS,
    EvaluationView,
    MetricView,
    RunView,
    Score,
    parse_score,
)
from resnet_tasks.run_folder.files import METRICS, RESULTS
from resnet_tasks.run_folder.read import make_damage_error, read_list
from resnet_tasks.structures.evaluation import HEADLINE, get_class_metric_name
from resnet_tasks.visualization.colors import Color, format_css_color

CARDS = 3


@dataclass(frozen=True)
class MetricRow:
    """Row of a metrics table; rows with `main` are set in bold."""

    name: str
    score: Score
    unit: str = ""
    lower_is_better: bool = False
    main: bool = False


@dataclass(frozen=True)
class ClassTable:
    """Scores of one head with classes as rows and metrics as columns.

    Attributes:
        metrics: Names of the metrics.
        rows: Name, color (`#rrggbb`; empty for a background) and scores of each class.
    """

    metrics: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Score, ...]], ...]


@dataclass(frozen=True)
class HeadSection:
    """Section of the page about one head.

    Attributes:
        name: Name of the head.
        type: Type of the head in the recipe.
        cards: Metrics that are highlighted at the top of the page.
        rows: All metrics.
        classes: Scores per class; None if no metric has classes.
        charts: Available charts among precision-recall, FROC, error types and reliability.
        confusion: Confusion matrix; None if there is none.
        notes: Sentences for the reader, for example about missing charts.
        without_interval: Classes in which a metric has a value but no interval. Empty if no metric
            of the evaluation has intervals.
        protocol: Description of the evaluation protocol.
    """

    name: str
    type: str
    cards: tuple[MetricRow, ...] = ()
    rows: tuple[MetricRow, ...] = ()
    classes: ClassTable | None = None
    charts: tuple[Chart, ...] = ()
    confusion: ConfusionMatrix | None = None
    notes: tuple[str, ...] = ()
    without_interval: tuple[str, ...] = ()
    protocol: str = ""


@dataclass(frozen=True)
class SubgroupRow:
    """Main metric of a subgroup of the images, and its difference to all other images."""

    name: str
    images: int
    score: Score
    difference: Score
    is_far_below: bool


@dataclass(frozen=True)
class SubgroupSection:
    """Metrics by subgroup of the images.

    Attributes:
        tables: Title such as `objects/AP by scanner` -> rows, the worst first.
        notes: Sentences on how the images were divided.
        warnings: Sentences about subgroups that lie far below the others.
    """

    tables: dict[str, list[SubgroupRow]]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class RunPage:
    """Contents of the page of one run.

    Attributes:
        run: Contents of the run folder.
        evaluation: Evaluation to show; None if there is none.
        heads: Section of every evaluated head.
        subgroups: Metrics by subgroup; None if they were not computed.
        learning: Charts of losses, metrics and the learning rate during training.
        gallery: Images with ground truth and predictions.
        splits: Statistics of every split.
        facts: (name, text) rows about the model, versions, hardware and files.
        times: (name, text) rows about durations.
        warnings: Sentences at the top of the page.
    """

    run: RunView
    evaluation: EvaluationView | None
    heads: list[HeadSection] = field(default_factory=list)
    subgroups: SubgroupSection | None = None
    learning: PageFragment = field(default_factory=PageFragment)
    gallery: PageFragment = field(default_factory=PageFragment)
    splits: PageFragment = field(default_factory=PageFragment)
    facts: list[tuple[str, str]] = field(default_factory=list)
    times: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_page(run: RunView, evaluation: EvaluationView | None, data_root: Path | None) -> RunPage:
    """Collect the contents of the page of one run.

    Args:
        run: Contents of the run folder.
        evaluation: Evaluation to show; None if there is none.
        data_root: Folder that holds the datasets; default: `$RESNET_TASKS_DATA` or `./data`, else
            the location of the data during the evaluation.
    """
    page = RunPage(run, evaluation)
    if evaluation is not None:
        page.heads = [_build_head_section(run, evaluation, name) for name in evaluation.heads]
        page.subgroups = _build_subgroup_section(evaluation)
        page.gallery = build_fragment(lambda: _build_gallery(run, evaluation, data_root))
    page.learning = build_fragment(lambda: draw_learning_charts(run.history))
    page.splits = build_fragment(lambda: _summarize_splits(run, evaluation, data_root))
    page.facts = list_facts(run, evaluation)
    page.times = list_times(run, page.splits.value)
    page.warnings = _find_warnings(run, evaluation)
    if page.subgroups is not None:
        page.warnings += page.subgroups.warnings
    return page


def _build_head_section(run: RunView, evaluation: EvaluationView, name: str) -> HeadSection:
    metrics = evaluation.heads[name]
    details = evaluation.details.get(name, {})
    rows = build_metric_rows(metrics)
    charts, notes = draw_detail_charts(details, run.labels.class_colors)
    confusion = build_fragment(
        lambda: build_confusion_matrix(details["confusion"]) if "confusion" in details else None
    )
    if confusion.problem:
        notes.append(f"The confusion matrix could not be drawn: {confusion.problem}.")
    if not details:
        notes.append("This evaluation has no curves or tables for this head.")
    head = run.recipe.heads.get(name)
    has_intervals = any(metric.interval for metric in metrics.values())
    protocol = evaluation.metadata.get("protocol") or {}
    return HeadSection(
        name,
        head.type if head else "",
        cards=tuple(choose_cards(rows)),
        rows=rows,
        classes=_build_class_table(metrics, run.labels.class_colors),
        charts=tuple(charts),
        confusion=confusion.value,
        notes=(*notes, *(str(note) for note in details.get("notes") or ())),
        without_interval=_find_classes_without_interval(metrics) if has_intervals else (),
        protocol=str(protocol.get(name, "")) if isinstance(protocol, dict) else "",
    )


def _build_subgroup_section(evaluation: EvaluationView) -> SubgroupSection | None:
    """Return the metrics by subgroup of `metrics.json`; None if it has none.

    Raises:
        RunError: If a subgroup lacks its main metric.
    """
    stored = evaluation.metadata.get("subgroups")
    if stored is None:
        return None
    tables: dict[str, list[SubgroupRow]] = {}
    for result in stored["results"]:
        name, comparison = result["main_metric"], result.get("comparison")
        if name not in result["metrics"]:
            reason = f"a subgroup lacks its main metric {name!r}"
            raise make_damage_error(evaluation.folder / "metrics.json", METRICS, reason)
        row = SubgroupRow(
            result["subgroup"],
            result["images"],
            parse_score(result["metrics"][name]),
            parse_score({**comparison, "value": comparison["difference"]})
            if comparison
            else Score(None),
            bool(comparison and comparison["is_far_below"]),
        )
        title = f"{result.get('head', '')}/{name} by {result['key']}"
        tables.setdefault(title, []).append(row)
    return SubgroupSection(tables, tuple(stored["notes"]), tuple(stored["warnings"]))


def build_metric_rows(metrics: Mapping[str, MetricView]) -> tuple[MetricRow, ...]:
    """Return one row per metric, in the order of the file."""
    return tuple(
        MetricRow(name, metric, metric.unit, metric.lower_is_better, name in HEADLINE)
        for name, metric in metrics.items()
    )


def choose_cards(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Return the rows for the top of the page: the headline metrics, else the first rows."""
    ranked = sorted((row for row in rows if row.main), key=lambda row: HEADLINE.index(row.name))
    return (ranked or list(rows))[:CARDS]


def _build_class_table(
    metrics: Mapping[str, MetricView], colors: Mapping[str, Color]
) -> ClassTable | None:
    # Per class, the `_foreground` variant of a metric has the same values as the metric itself.
    with_classes = {
        name: metric
        for name, metric in metrics.items()
        if metric.per_class and name.removesuffix("_foreground") not in metrics.keys() - {name}
    }
    if not with_classes:
        return None
    classes = dict.fromkeys(name for metric in with_classes.values() for name in metric.per_class)
    missing_score = Score(None)
    rows = tuple(
        (
            name,
            format_css_color(colors.get(name)),
            tuple(metric.per_class.get(name, missing_score) for metric in with_classes.values()),
        )
        for name in classes
    )
    return ClassTable(tuple(map(get_class_metric_name, with_classes)), rows)


def _find_classes_without_interval(metrics: Mapping[str, MetricView]) -> tuple[str, ...]:
    # Only metrics whose classes have intervals at all: calibration errors, for example, have none.
    names: dict[str, None] = {}
    for metric in metrics.values():
        scores = metric.per_class
        if any(score.interval for score in scores.values()):
            names |= {
                name: None
                for name, score in scores.items()
                if score.value is not None and score.interval is None
            }
    return tuple(names)


def _build_gallery(run: RunView, evaluation: EvaluationView, data_root: Path | None) -> Gallery:
    files = read_evaluated_files(run, evaluation, data_root)
    dataset = as_dataset(run, files)
    predictions = evaluation.folder / "predictions"
    results_files = {head: predictions / f"{head}.json" for head in run.labels.heads}
    results = {
        head: read_list(path, RESULTS) for head, path in results_files.items() if path.exists()
    }
    if not results and not any((predictions / head).is_dir() for head in run.labels.heads):
        raise RunError(f"{predictions} contains no predictions; evaluate the run again")
    return draw_gallery(
        dataset,
        predictions,
        recipe=run.recipe,
        labels=run.labels,
        details=evaluation.details,
        results=results,
    )


def _summarize_splits(
    run: RunView, evaluation: EvaluationView | None, data_root: Path | None
) -> list[SplitView]:
    folder = locate_data_folder(run, evaluation, data_root)
    split_views = [
        summarize_split(split, as_dataset(run, read_sources(run.recipe, split, folder)))
        for split in SPLITS
        if getattr(run.recipe.data, split)
    ]
    if evaluation is not None and evaluation.split is None:
        files = read_evaluated_files(run, evaluation, data_root)
        split_views.append(summarize_split(evaluation.name, as_dataset(run, files)))
    return split_views


def list_facts(run: RunView, evaluation: EvaluationView | None) -> list[tuple[str, str]]:
    """Return (name, text) rows about the model, versions, hardware and files."""
    recipe = run.recipe
    heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
    rows = [
        ("recipe", recipe.name),
        ("backbone", f"{recipe.backbone.name}, weights: {recipe.backbone.weights}"),
        ("heads", heads),
        ("seed", str(recipe.training.seed)),
    ]
    if run.parameters:
        parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in run.parameters.items())
        rows.append(("parameters", f"{sum(run.parameters.values()) / 1e6:.2f} M ({parts})"))
    if run.history.starts:
        start = run.history.starts[-1]
        texts = [
            f"{key} {start[key]}" for key in ("device", "precision", "threads") if key in start
        ]
        rows.append(("training hardware", ", ".join(texts)))
    if evaluation is None:
        return rows
    metadata = evaluation.metadata
    for key in ("evaluator", "hardware", "versions"):
        value = metadata.get(key)
        if isinstance(value, dict):
            texts = [f"{name} {setting}" for name, setting in value.items() if setting is not None]
            rows.append((f"{key} (evaluation)", ", ".join(texts)))
    for path, digest in (metadata.get("data") or {}).items():
        rows.append(("evaluated on", f"{path} (sha256 {digest})"))
    return rows


def list_times(run: RunView, splits: Sequence[SplitView] | None) -> list[tuple[str, str]]:
    """Return (name, text) rows about durations; empty if the log does not contain any."""
    history, epochs = run.history, run.recipe.training.epochs
    rows: list[tuple[str, str]] = []
    if history.starts:
        rows.append(("started", str(history.starts[0].get("time", ""))))
        if len(history.starts) > 1:
            rows.append(("starts", str(len(history.starts))))
    if history.seconds is None:
        return rows
    rows.append(("training", format_duration(history.seconds)))
    rows.append(
        ("per epoch", f"{format_duration(history.seconds / epochs)} ({Count(epochs):epoch})")
    )
    train = next((split for split in splits or () if split.name == "train"), None)
    if train is not None and history.seconds > 0:
        speed = epochs * train.images / history.seconds
        rows.append(("speed", f"{speed:.1f} images/s while training"))
    if history.wall_seconds is not None and len(history.starts) == 1:
        rows.append(("training with evaluations", format_duration(history.wall_seconds)))
    return rows


def _find_warnings(run: RunView, evaluation: EvaluationView | None) -> list[str]:
    warnings = []
    history = run.history
    if history.seconds is None:
        epochs = run.recipe.training.epochs
        warnings.append(
            f"This run is not complete: its log reaches epoch {history.last_epoch} of {epochs}."
        )
    if gaps := history.describe_gaps():
        warnings.append(gaps)
    if evaluation is None:
        warnings.append(
            f"There is no evaluation yet; create one with `resnet-tasks evaluate {run.folder}`."
        )
    elif not evaluation.has_intervals:
        warnings.append("The metrics of this evaluation have no confidence intervals.")
    return warnings
