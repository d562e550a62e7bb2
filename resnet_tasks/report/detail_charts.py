"""Charts of an evaluation's details: curves, error types, reliability and confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from resnet_tasks.number_formats import Count
from resnet_tasks.report.charts import (
    Axes,
    Chart,
    ChartTable,
    Line,
    draw_bar_chart,
    draw_line_chart,
    format_number,
)
from resnet_tasks.report.history import Points
from resnet_tasks.report.page_fragments import build_fragment
from resnet_tasks.visualization.colors import Color, format_css_color

MAX_MATRIX = 40
"""Maximum number of classes for which the full confusion matrix is drawn."""


MAX_LINES = 12
"""Maximum number of classes for which every precision-recall curve is drawn."""


ERROR_TYPES = {
    "Cls": "wrong class",
    "Loc": "wrong location",
    "Both": "class and location",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
    "FP": "all false positives",
    "FN": "all false negatives",
}
"""TIDE's abbreviations of error types -> display names."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """Confusion matrix for display.

    Attributes:
        labels: Class names.
        rows: Class name and cells of each row; a cell is (count as text, share of its row 0..1,
            whether it is on the diagonal). Empty if there are too many classes.
        frequent: Ten most frequent confusions: true class, predicted class, count as text.
        note: Reason why `rows` is empty.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, float, bool], ...]], ...]
    frequent: tuple[tuple[str, str, str], ...]
    note: str = ""


def draw_detail_charts(
    details: Mapping[str, Any], colors: Mapping[str, Color]
) -> tuple[list[Chart], list[str]]:
    """Draw the charts of a head's details, and return sentences about those that failed.

    Args:
        details: Curves and tables of the head; see `Evaluation.details`.
        colors: Class name -> color.
    """
    makers: dict[str, tuple[str, Callable[[Any], Chart]]] = {
        "pr_curves": ("precision-recall curves", partial(_draw_pr_chart, colors=colors)),
        "confidence_curves": ("curves by confidence", _draw_confidence_chart),
        "froc": ("FROC curve", _draw_froc_chart),
        "error_types": ("error types", _draw_errors_chart),
        "reliability": ("reliability diagram", _draw_reliability_chart),
    }
    charts, notes = [], []
    for key, (title, make) in makers.items():
        raw = details.get(key)
        if not raw:
            continue
        fragment = build_fragment(lambda make=make, raw=raw: make(raw))  # type: ignore[misc]
        if fragment.problem:
            notes.append(f"The {title} could not be drawn: {fragment.problem}.")
        else:
            charts.append(fragment.value)
    return charts, notes


def build_confusion_matrix(raw: Mapping[str, Any]) -> ConfusionMatrix:
    """Build the confusion matrix from a head's details.

    Args:
        raw: `labels`, and the square `matrix` of counts with one row and column per label.

    Raises:
        ValueError: If the size of the matrix does not match the labels.
    """
    labels = tuple(str(label) for label in raw["labels"])
    counts = [[float(value) for value in row] for row in raw["matrix"]]
    if len(counts) != len(labels) or any(len(row) != len(labels) for row in counts):
        raise ValueError(
            f"the matrix must have a row and a column for each of {len(labels)} labels"
        )
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
        note = f"With {Count(len(labels)):class}, the full matrix is only in details.json."
        return ConfusionMatrix(labels, (), frequent, note)
    rows = []
    for i, row in enumerate(counts):
        total = sum(row)
        cells = tuple(
            (_format_count(value), value / total if total else 0.0, i == j)
            for j, value in enumerate(row)
        )
        rows.append((labels[i], cells))
    return ConfusionMatrix(labels, tuple(rows), frequent)


def _draw_pr_chart(
    curves: Mapping[str, Mapping[str, Sequence[float | None]]], colors: Mapping[str, Color]
) -> Chart:
    classes = {name: curve for name, curve in curves.items() if name != "all"}
    note = "At IoU 0.5."
    if len(classes) > MAX_LINES:
        ranked = sorted(classes, key=lambda name: -_compute_mean(classes[name]["precision"]))
        half = MAX_LINES // 2
        shown_classes = [*ranked[:half], *ranked[-half:]]
        note = (
            f"At IoU 0.5; only the {half} best and the {half} worst of {len(classes)} classes are "
            "drawn."
        )
        classes = {name: classes[name] for name in shown_classes}
    lines = [
        Line(
            name,
            _pair_points(curve["recall"], curve["precision"]),
            color=format_css_color(colors.get(name)),
        )
        for name, curve in classes.items()
    ]
    if "all" in curves:
        mean = _pair_points(curves["all"]["recall"], curves["all"]["precision"])
        lines.append(Line("all (mean of the classes)", mean, is_highlighted=True))
    axes = Axes("recall", "precision", (0.0, 1.0), (0.0, 1.0))
    return draw_line_chart("Precision and recall", lines, axes, note=note)


def _draw_confidence_chart(curves: Mapping[str, Any]) -> Chart:
    confidence, f1 = curves["confidence"], curves["f1"]
    best = max(range(len(f1)), key=lambda i: f1[i])
    note = (
        "All classes together, detections from each confidence, at IoU 0.5. F1 is highest "
        f"({format_number(f1[best])}) at {format_number(confidence[best])}; "
        "resnet-tasks operating-point chooses a threshold for each class."
    )
    names = {"precision": "precision", "recall": "recall", "f1": "F1"}
    lines = [
        Line(title, _pair_points(confidence, curves[name]), is_highlighted=name == "f1")
        for name, title in names.items()
    ]
    axes = Axes("confidence", "value", (0.0, max(1.0, confidence[-1])), (0.0, 1.0))
    chart = draw_line_chart("F1, precision and recall by confidence", lines, axes, note=note)
    rows = tuple(
        (name, *(format_number(numbers[key]) for key in ("confidence", *names)))
        for name, numbers in curves["classes"].items()
    )
    columns = ("class", "confidence with the highest F1", *names.values())
    return replace(chart, table=ChartTable(columns, rows))


def _draw_froc_chart(curve: Mapping[str, Sequence[float]]) -> Chart:
    points = sorted(_pair_points(curve["false_positives"], curve["sensitivity"]))
    xs = [x for x, _ in points if x > 0]
    is_log = len(xs) > 1 and max(xs) / min(xs) >= 4
    low, high = (min(0.125, *xs), max(8.0, *xs)) if is_log else (0.0, max([1.0, *xs]))
    axes = Axes(
        "false positives per image",
        "sensitivity",
        x_range=(max(low, 0.01), high) if is_log else (low, high),
        y_range=(0.0, 1.0),
        log_x=is_log,
    )
    shown_points = [(x, y) for x, y in points if not is_log or x >= 0.01]
    note = "The axis is logarithmic." if is_log else ""
    return draw_line_chart("FROC", [Line("sensitivity", shown_points)], axes, note=note)


def _draw_errors_chart(errors: Mapping[str, float]) -> Chart:
    lost_ap = {
        ERROR_TYPES.get(name, name): float(value)
        for name, value in errors.items()
        if value is not None
    }
    return draw_bar_chart("Causes of lost average precision", lost_ap, label="lost AP")


def _draw_reliability_chart(bins: Mapping[str, Sequence[float | None]]) -> Chart:
    rows = [
        (c, a, n)
        for c, a, n in zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
        if c is not None and a is not None and n
    ]
    total = sum(n for *_, n in rows)
    gap = sum(n * abs(c - a) for c, a, n in rows) / total if total else None
    axes = Axes("confidence", "accuracy", (0.0, 1.0), (0.0, 1.0), diagonal=True)
    note = (
        f"Mean distance from the diagonal, weighted by count: {format_number(gap)}. Below the "
        "diagonal, the model is overconfident."
    )
    chart = draw_line_chart("Reliability", [Line("this run", [(c, a) for c, a, _ in rows])], axes)
    columns = ("confidence", "accuracy", "count")
    table = ChartTable(
        columns, tuple((format_number(c), format_number(a), f"{n:g}") for c, a, n in rows)
    )
    return Chart(chart.title, chart.svg, table, note=note)


def _format_count(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    return f"{value:g}"


def _pair_points(xs: Sequence[float | None], ys: Sequence[float | None]) -> Points:
    return [
        (float(x), None if y is None or y < 0 else float(y))
        for x, y in zip(xs, ys, strict=True)
        if x is not None
    ]


def _compute_mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else 0.0
