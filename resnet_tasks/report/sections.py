"""From the view of a run to what its page shows: rows, charts and sentences, no markup of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resnet_tasks.assemble.splits import read_sources
from resnet_tasks.errors import RunError
from resnet_tasks.metrics import HEADLINE
from resnet_tasks.report.charts import Chart
from resnet_tasks.report.collect import SPLITS, EvaluationView, MetricView, RunView, Score
from resnet_tasks.report.datasets import (
    SplitView,
    as_dataset,
    data_folder,
    judged_files,
    summarise,
)
from resnet_tasks.report.detail_charts import Matrix, confusion_matrix, detail_charts
from resnet_tasks.report.learning_charts import learning_charts
from resnet_tasks.report.parts import Part, attempt
from resnet_tasks.report.pictures import Gallery, draw_gallery

CARDS = 3


@dataclass(frozen=True)
class Row:
    """A row of a metrics table; `main` ones are set in bold."""

    name: str
    score: Score
    unit: str = ""
    lower_is_better: bool = False
    main: bool = False


@dataclass(frozen=True)
class ClassTable:
    """Classes by metrics of one head."""

    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Score, ...]], ...]


@dataclass(frozen=True)
class HeadSection:
    """What is known of one head.

    Attributes:
        name: Of the head.
        type: As in the recipe.
        cards: The metrics that the page opens with.
        rows: All metrics.
        classes: By class; None where no metric has classes.
        charts: Precision-recall, FROC, error types, reliability, as far as they were made.
        confusion: None where it was not made.
        notes: Sentences, also on what is not there.
        protocol: How the numbers were counted.
    """

    name: str
    type: str
    cards: tuple[Row, ...] = ()
    rows: tuple[Row, ...] = ()
    classes: ClassTable | None = None
    charts: tuple[Chart, ...] = ()
    confusion: Matrix | None = None
    notes: tuple[str, ...] = ()
    protocol: str = ""


@dataclass
class Page:
    """All that the template of one run shows."""

    run: RunView
    evaluation: EvaluationView | None
    heads: list[HeadSection] = field(default_factory=list)
    learning: Part = field(default_factory=Part)
    gallery: Part = field(default_factory=Part)
    splits: Part = field(default_factory=Part)
    facts: list[tuple[str, str]] = field(default_factory=list)
    times: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def make_page(run: RunView, evaluation: EvaluationView | None, data_root: Path | None) -> Page:
    """Everything that the page of one run shows.

    Args:
        run: The run.
        evaluation: Which of its evaluations leads; None where there is none.
        data_root: Folder that holds data sets; default: where it was when judged.
    """
    page = Page(run, evaluation)
    if evaluation is not None:
        page.heads = [_head(run, evaluation, name) for name in evaluation.heads]
        page.gallery = attempt(lambda: _gallery(run, evaluation, data_root))
    page.learning = attempt(lambda: learning_charts(run.history))
    page.splits = attempt(lambda: _splits(run, evaluation, data_root))
    page.facts = facts(run, evaluation)
    page.times = times(run, page.splits.value)
    page.warnings = _warnings(run, evaluation)
    return page


def _head(run: RunView, evaluation: EvaluationView, name: str) -> HeadSection:
    metrics = evaluation.heads[name]
    details = evaluation.details.get(name, {})
    rows = metric_rows(metrics)
    charts, notes = detail_charts(details)
    confusion = attempt(
        lambda: confusion_matrix(details["confusion"]) if "confusion" in details else None
    )
    if confusion.problem:
        notes.append(f"The confusion matrix could not be drawn: {confusion.problem}.")
    if not details:
        notes.append("No curves or tables were made for this head in this evaluation.")
    head = run.recipe.heads.get(name)
    protocol = evaluation.about.get("protocol") or {}
    return HeadSection(
        name,
        head.type if head else "",
        cards=tuple(cards(rows)),
        rows=rows,
        classes=_class_table(metrics),
        charts=tuple(charts),
        confusion=confusion.value,
        notes=(*notes, *(str(each) for each in details.get("notes") or ())),
        protocol=str(protocol.get(name, "")) if isinstance(protocol, dict) else "",
    )


def metric_rows(metrics: Mapping[str, MetricView]) -> tuple[Row, ...]:
    """One row per metric, in the file's order."""
    return tuple(
        Row(name, each, each.unit, each.lower_is_better, name in HEADLINE)
        for name, each in metrics.items()
    )


def cards(rows: Sequence[Row]) -> list[Row]:
    """The rows that a page opens with: the best known ones, else the first."""
    ranked = sorted((row for row in rows if row.main), key=lambda row: HEADLINE.index(row.name))
    return (ranked or list(rows))[:CARDS]


def _class_table(metrics: Mapping[str, MetricView]) -> ClassTable | None:
    # Of one class a mean over the foreground says what the mean over all says.
    with_classes = {
        name: each
        for name, each in metrics.items()
        if each.per_class and name.removesuffix("_foreground") not in metrics.keys() - {name}
    }
    if not with_classes:
        return None
    classes = dict.fromkeys(name for each in with_classes.values() for name in each.per_class)
    nothing = Score(None)
    rows = tuple(
        (name, tuple(each.per_class.get(name, nothing) for each in with_classes.values()))
        for name in classes
    )
    return ClassTable(tuple(with_classes), rows)


def _gallery(run: RunView, evaluation: EvaluationView, data_root: Path | None) -> Gallery:
    files = judged_files(run, evaluation, data_root)
    dataset = as_dataset(run, files)
    predictions = evaluation.folder / "predictions"
    files_of = {head: predictions / f"{head}.json" for head in run.labels.heads}
    results = {
        head: json.loads(path.read_text(encoding="utf-8"))
        for head, path in files_of.items()
        if path.is_file()
    }
    if not results and not any((predictions / head).is_dir() for head in run.labels.heads):
        raise RunError(f"{predictions} holds no predictions; evaluate the run again")
    return draw_gallery(
        dataset,
        predictions,
        recipe=run.recipe,
        labels=run.labels,
        details=evaluation.details,
        results=results,
    )


def _splits(
    run: RunView, evaluation: EvaluationView | None, data_root: Path | None
) -> list[SplitView]:
    folder = data_folder(run, evaluation, data_root)
    found = [
        summarise(split, as_dataset(run, read_sources(run.recipe, split, folder)))
        for split in SPLITS
        if getattr(run.recipe.data, split)
    ]
    if evaluation is not None and evaluation.split is None:
        files = judged_files(run, evaluation, data_root)
        found.append(summarise(evaluation.name, as_dataset(run, files)))
    return found


def facts(run: RunView, evaluation: EvaluationView | None) -> list[tuple[str, str]]:
    """Model, versions, hardware and files, as names and texts."""
    recipe = run.recipe
    heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
    found = [
        ("recipe", recipe.name),
        ("backbone", f"{recipe.backbone.name}, weights: {recipe.backbone.weights}"),
        ("heads", heads),
        ("seed", str(recipe.training.seed)),
    ]
    if run.parameters:
        parts = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in run.parameters.items())
        found.append(("parameters", f"{sum(run.parameters.values()) / 1e6:.2f} M ({parts})"))
    if run.history.starts:
        start = run.history.starts[-1]
        texts = [
            f"{key} {start[key]}" for key in ("device", "precision", "threads") if key in start
        ]
        found.append(("training on", ", ".join(texts)))
    if evaluation is None:
        return found
    about = evaluation.about
    for key in ("evaluator", "hardware", "versions"):
        value = about.get(key)
        if isinstance(value, dict):
            texts = [f"{name} {each}" for name, each in value.items() if each is not None]
            found.append((f"{key} (of the evaluation)", ", ".join(texts)))
    for path, digest in (about.get("data") or {}).items():
        found.append(("judged on", f"{path} (sha256 {digest})"))
    return found


def times(run: RunView, splits: Sequence[SplitView] | None) -> list[tuple[str, str]]:
    """How long what took; nothing where the log does not tell."""
    history, epochs = run.history, run.recipe.training.epochs
    found: list[tuple[str, str]] = []
    if history.starts:
        found.append(("started", str(history.starts[0].get("time", ""))))
        if len(history.starts) > 1:
            found.append(("sittings", str(len(history.starts))))
    if history.seconds is None:
        return found
    found.append(("training", duration(history.seconds)))
    found.append(("per epoch", f"{duration(history.seconds / epochs)} ({epochs} epochs)"))
    train = next((each for each in splits or () if each.name == "train"), None)
    if train is not None and history.seconds > 0:
        speed = epochs * train.pictures / history.seconds
        found.append(("speed", f"{speed:.1f} images/s while training"))
    if history.wall_seconds is not None and len(history.starts) == 1:
        found.append(("with the evaluations in between", duration(history.wall_seconds)))
    return found


def duration(seconds: float) -> str:
    """Seconds as people write them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _warnings(run: RunView, evaluation: EvaluationView | None) -> list[str]:
    found = []
    history = run.history
    if history.seconds is None:
        epochs = run.recipe.training.epochs
        found.append(
            f"This run has not ended: its log reaches epoch {history.last_epoch} of {epochs}."
        )
    if history.unreadable:
        found.append(f"{history.unreadable} line(s) of log.jsonl could not be read.")
    if evaluation is None:
        found.append(
            f"There is no evaluation yet; make one with `resnet-tasks evaluate {run.folder}`."
        )
    elif not evaluation.has_intervals:
        found.append("No intervals were made for this evaluation; its numbers stand alone.")
    return found
