"""From the view of a run to what its page shows: rows, charts and sentences, no markup of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_tasks.assemble.splits import read_sources
from resnet_tasks.errors import ResnetTasksError, RunError
from resnet_tasks.metrics import HEADLINE
from resnet_tasks.report.charts import Axes, Chart, Line, Table, bar_chart, line_chart, number
from resnet_tasks.report.collect import SPLITS, EvaluationView, MetricView, RunView, Score
from resnet_tasks.report.datasets import (
    SplitView,
    as_dataset,
    data_folder,
    judged_files,
    summarise,
)
from resnet_tasks.report.history import History, Points, smoothed
from resnet_tasks.report.pictures import Gallery, draw_gallery

CARDS = 3
CURVES = ("AP", "mIoU", "top1", "AUROC", "AP50", "AP75", "Dice", "mAP", "pixel_accuracy")
"""Metrics drawn over the epochs; the table holds all."""
MAX_MATRIX = 40
"""Classes up to which a confusion matrix is drawn whole."""
MAX_LINES = 12
"""Classes up to which every one gets its precision-recall curve."""
ERROR_TYPES = {
    "Cls": "wrong class",
    "Loc": "wrong place",
    "Both": "class and place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "missed",
    "FP": "all false alarms",
    "FN": "all not found",
}
"""TIDE's short names in words."""
UNMADE = (LookupError, TypeError, ValueError, AttributeError, OSError, ResnetTasksError)
"""What a damaged or foreign file can cause while a part of the page is made."""


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
class Matrix:
    """A confusion matrix as rows of (text, share of its row 0..1, is the diagonal)."""

    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, float, bool], ...]], ...]
    frequent: tuple[tuple[str, str, str], ...]
    note: str = ""


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


@dataclass(frozen=True)
class Part:
    """Any part of the page, or the sentence why it could not be made."""

    value: Any = None
    problem: str = ""


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


def attempt(make: Callable[[], Any]) -> Part:
    """A part of the page; what is wrong with its files becomes a sentence in its place."""
    try:
        return Part(make())
    except UNMADE as error:
        text = (
            str(error)
            if isinstance(error, ResnetTasksError)
            else f"{type(error).__name__}: {error}"
        )
        return Part(problem=text)


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
    charts, notes = _detail_charts(details)
    confusion = attempt(lambda: _matrix(details["confusion"]) if "confusion" in details else None)
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


def _detail_charts(details: Mapping[str, Any]) -> tuple[list[Chart], list[str]]:
    """The charts among a head's details, and sentences on those that could not be drawn."""
    makers: dict[str, tuple[str, Callable[[Any], Chart]]] = {
        "pr_curves": ("precision-recall curves", _pr_chart),
        "froc": ("FROC curve", _froc_chart),
        "error_types": ("error types", _errors_chart),
        "reliability": ("reliability diagram", _reliability_chart),
    }
    charts, notes = [], []
    for key, (what, make) in makers.items():
        raw = details.get(key)
        if not raw:
            continue
        part = attempt(lambda make=make, raw=raw: make(raw))  # type: ignore[misc]
        if part.problem:
            notes.append(f"The {what} could not be drawn: {part.problem}.")
        else:
            charts.append(part.value)
    return charts, notes


def _pr_chart(curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Chart:
    classes = {name: each for name, each in curves.items() if name != "all"}
    note = "At IoU 0.5."
    if len(classes) > MAX_LINES:
        ranked = sorted(classes, key=lambda name: -_mean(classes[name]["precision"]))
        half = MAX_LINES // 2
        kept = [*ranked[:half], *ranked[-half:]]
        note = (
            f"At IoU 0.5; of {len(classes)} classes the {half} best and the {half} worst are drawn."
        )
        classes = {name: classes[name] for name in kept}
    lines = [
        Line(name, _pairs(each["recall"], each["precision"])) for name, each in classes.items()
    ]
    if "all" in curves:
        mean = _pairs(curves["all"]["recall"], curves["all"]["precision"])
        lines.append(Line("all (mean of the classes)", mean, stands_out=True))
    axes = Axes("recall", "precision", (0.0, 1.0), (0.0, 1.0))
    return line_chart("Precision and recall", lines, axes, note=note)


def _froc_chart(curve: Mapping[str, Sequence[float]]) -> Chart:
    points = sorted(_pairs(curve["false_positives"], curve["sensitivity"]))
    xs = [x for x, _ in points if x > 0]
    is_log = len(xs) > 1 and max(xs) / min(xs) >= 4
    low, high = (min(0.125, *xs), max(8.0, *xs)) if is_log else (0.0, max([1.0, *xs]))
    axes = Axes(
        "false positives per picture",
        "sensitivity",
        x_range=(max(low, 0.01), high) if is_log else (low, high),
        y_range=(0.0, 1.0),
        log_x=is_log,
    )
    kept = [(x, y) for x, y in points if not is_log or x >= 0.01]
    note = "The axis is logarithmic." if is_log else ""
    return line_chart("FROC", [Line("sensitivity", kept)], axes, note=note)


def _errors_chart(errors: Mapping[str, float]) -> Chart:
    known = {
        ERROR_TYPES.get(name, name): float(value)
        for name, value in errors.items()
        if value is not None
    }
    return bar_chart("What costs average precision", known, label="AP lost to it")


def _reliability_chart(bins: Mapping[str, Sequence[float | None]]) -> Chart:
    rows = [
        (c, a, n)
        for c, a, n in zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
        if c is not None and a is not None and n
    ]
    total = sum(n for *_, n in rows)
    gap = sum(n * abs(c - a) for c, a, n in rows) / total if total else None
    axes = Axes("confidence", "share that is right", (0.0, 1.0), (0.0, 1.0), diagonal=True)
    note = (
        f"Mean distance from the diagonal, weighted by count: {number(gap)}. Below the diagonal: "
        "more confident than right."
    )
    chart = line_chart("Reliability", [Line("this run", [(c, a) for c, a, _ in rows])], axes)
    columns = ("confidence", "share that is right", "count")
    table = Table(columns, tuple((number(c), number(a), f"{n:g}") for c, a, n in rows))
    return Chart(chart.title, chart.svg, table, note=note)


def _matrix(raw: Mapping[str, Any]) -> Matrix:
    labels = tuple(str(each) for each in raw["labels"])
    counts = [[float(value) for value in row] for row in raw["matrix"]]
    if len(counts) != len(labels) or any(len(row) != len(labels) for row in counts):
        raise ValueError(f"{len(labels)} labels do not fit the matrix")
    pairs = sorted(
        (
            (-counts[i][j], i, j)
            for i in range(len(labels))
            for j in range(len(labels))
            if i != j and counts[i][j]
        ),
    )[:10]
    frequent = tuple((labels[i], labels[j], f"{-count:g}") for count, i, j in pairs)
    if len(labels) > MAX_MATRIX:
        note = f"With {len(labels)} classes the whole matrix is left to details.json."
        return Matrix(labels, (), frequent, note)
    rows = []
    for i, row in enumerate(counts):
        total = sum(row)
        cells = tuple(
            (_count(value), value / total if total else 0.0, i == j) for j, value in enumerate(row)
        )
        rows.append((labels[i], cells))
    return Matrix(labels, tuple(rows), frequent)


def _count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:g}"


def learning_charts(history: History) -> list[Chart]:
    """Losses by head, validation metrics by head, learning rate."""
    charts = []
    losses, validation = _by_head(history.losses), _by_head(history.validation)
    for head in dict.fromkeys((*losses, *validation)):
        if head in losses:
            lines, size = [], 1
            for name in losses[head]:
                points, size = smoothed(history.losses[f"{head}/{name}"])
                lines.append(Line(name, points))
            note = "As logged." if size == 1 else f"Each point is the mean of {size} logged steps."
            axes = Axes("optimizer step", "loss", whole_x=True)
            charts.append(line_chart(f"{head}: training loss", lines, axes, note=note))
        if head in validation:
            names = validation[head]
            drawn = [name for name in names if name in CURVES] or names[:4]
            curves = {name: history.validation[f"{head}/{name}"] for name in drawn}
            lines = [
                Line(name, points)
                for name, points in curves.items()
                if any(y is not None for _, y in points)
            ]
            if lines:
                axes = Axes("epoch", "value", whole_x=True)
                charts.append(line_chart(f"{head}: validation", lines, axes))
    if history.rates:
        points, _ = smoothed(history.rates)
        axes = Axes("optimizer step", "learning rate", whole_x=True)
        charts.append(line_chart("Learning rate", [Line("learning rate", points)], axes))
    return charts


def _by_head(curves: Iterable[str]) -> dict[str, list[str]]:
    heads: dict[str, list[str]] = {}
    for key in curves:
        head, _, name = key.partition("/")
        heads.setdefault(head, []).append(name)
    return heads


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


def _pairs(xs: Sequence[float | None], ys: Sequence[float | None]) -> Points:
    return [
        (float(x), None if y is None or y < 0 else float(y))
        for x, y in zip(xs, ys, strict=True)
        if x is not None
    ]


def _mean(values: Sequence[float | None]) -> float:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else 0.0
