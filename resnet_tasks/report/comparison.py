"""Several runs beside each other: metrics, classes, learning curves, recipes and costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_tasks.errors import RunError
from resnet_tasks.metrics import HEADLINE
from resnet_tasks.report.charts import Axes, Chart, Line, line_chart
from resnet_tasks.report.collect import EvaluationView, RunView, Score
from resnet_tasks.report.history import History, smoothed
from resnet_tasks.report.learning_charts import CURVES
from resnet_tasks.report.parts import Part, attempt
from resnet_tasks.report.sections import duration
from resnet_tasks.training.price import Price, Prices


@dataclass(frozen=True)
class Cell:
    """A number of one run, and how it differs from the first run's.

    Attributes:
        score: The number; None where the run has no such metric.
        difference: None for the first run, and where either number is missing.
        better: Whether the difference is for the better; None where there is none.
    """

    score: Score | None
    difference: float | None = None
    better: bool | None = None


@dataclass(frozen=True)
class Comparison:
    """Rows by runs.

    Attributes:
        title: Of the head.
        rows: Name, unit, cells.
    """

    title: str
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


@dataclass
class ComparisonPage:
    """All that the template of several runs shows.

    Attributes:
        runs: In the order given; the first one is compared with.
        names: One per run, each different.
        evaluations: The one of each run that is shown.
        metrics: By head.
        classes: By head: the main metric by class.
        recipes: Key path, and its text in every run; only where they differ.
        costs: What a run takes: name, and its text in every run.
        conditions: How what was measured of them was measured; empty where nothing was.
        learning: Curves of all runs in one chart each.
        warnings: What makes the numbers hard to compare.
    """

    runs: list[RunView]
    names: list[str]
    evaluations: list[EvaluationView | None]
    metrics: list[Comparison] = field(default_factory=list)
    classes: list[Comparison] = field(default_factory=list)
    recipes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    costs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    conditions: str = ""
    learning: Part = field(default_factory=Part)
    warnings: list[str] = field(default_factory=list)


def make_comparison(
    runs: Sequence[RunView], evaluation: str | None, prices: Prices | None = None
) -> ComparisonPage:
    """Everything that the page of several runs shows.

    Args:
        runs: At least two.
        evaluation: Name of the evaluation to compare; None: the first run's latest, where all have
            it, else each run's own latest.
        prices: What their models cost, in the order of the runs.

    Raises:
        RunError: If there are fewer than two runs, or one lacks the named evaluation.
    """
    if len(runs) < 2:
        raise RunError("compare takes at least two runs; name another one")
    chosen = _evaluations(runs, evaluation)
    page = ComparisonPage(list(runs), distinct_names([run.folder for run in runs]), chosen)
    page.metrics = _metrics(chosen)
    page.classes = _classes(chosen)
    page.recipes = recipe_differences(runs)
    page.costs = costs(runs)
    if prices is not None:
        page.costs += measured_costs(runs, list(prices.each.values()))
        page.conditions = prices.conditions
    page.learning = attempt(lambda: _learning(page))
    page.warnings = _warnings(page)
    return page


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; numbered where the paths are equal."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({i})" for i, folder in enumerate(folders, start=1)]


def _evaluations(runs: Sequence[RunView], name: str | None) -> list[EvaluationView | None]:
    if name is not None:
        return [run.evaluation(name) for run in runs]
    held = [{each.name for each in run.evaluations} for run in runs]
    shared = next(
        (e.name for e in runs[0].evaluations if all(e.name in names for names in held)), None
    )
    return [run.evaluation(shared) for run in runs]


def _metrics(evaluations: Sequence[EvaluationView | None]) -> list[Comparison]:
    found = []
    for head in _union(each.heads if each else {} for each in evaluations):
        tables = [each.heads.get(head, {}) if each else {} for each in evaluations]
        rows = []
        for name in _union(tables):
            metrics = [table.get(name) for table in tables]
            known = next(each for each in metrics if each is not None)
            rows.append((name, known.unit, _cells(metrics, known.lower_is_better)))
        found.append(Comparison(head, tuple(rows)))
    return found


def _classes(evaluations: Sequence[EvaluationView | None]) -> list[Comparison]:
    """The main metric of every head by class."""
    found = []
    for head in _union(each.heads if each else {} for each in evaluations):
        tables = [each.heads.get(head, {}) if each else {} for each in evaluations]
        with_classes = [
            name for name in _union(tables) if any(t[name].per_class for t in tables if name in t)
        ]
        if not with_classes:
            continue
        name = next((each for each in HEADLINE if each in with_classes), with_classes[0])
        metrics = [table.get(name) for table in tables]
        lower = any(each.lower_is_better for each in metrics if each)
        classes = _union(each.per_class if each else {} for each in metrics)
        rows = tuple(
            (label, "", _cells([m.per_class.get(label) if m else None for m in metrics], lower))
            for label in classes
        )
        found.append(Comparison(f"{head}: {name}", rows))
    return found


def _cells(scores: Sequence[Score | None], lower_is_better: bool) -> tuple[Cell, ...]:
    first = scores[0].value if scores[0] is not None else None
    cells = [Cell(scores[0])]
    for score in scores[1:]:
        if score is None or score.value is None or first is None:
            cells.append(Cell(score))
            continue
        difference = score.value - first
        better = None if difference == 0 else (difference < 0) == lower_is_better
        cells.append(Cell(score, difference, better))
    return tuple(cells)


def _union(tables: Any) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def recipe_differences(runs: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """Key paths whose values are not the same in all runs."""
    flat = [_flat(run.recipe.model_dump(mode="json")) for run in runs]
    return [
        (key, tuple(each.get(key, "–") for each in flat))
        for key in _union(flat)
        if len({each.get(key) for each in flat}) > 1
    ]


def _flat(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        inner = (_flat(each, f"{path}.{key}" if path else str(key)) for key, each in value.items())
        return {key: text for part in inner for key, text in part.items()}
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        inner = (_flat(each, f"{path}[{i}]") for i, each in enumerate(value))
        return {key: text for part in inner for key, text in part.items()}
    return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def costs(runs: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """What each run takes: a row a measure, a text a run."""

    def parameters(run: RunView) -> str:
        return f"{sum(run.parameters.values()) / 1e6:.2f} M" if run.parameters else "–"

    def size(run: RunView) -> str:
        return "–" if run.weights_bytes is None else f"{run.weights_bytes / 1e6:.1f} MB"

    def training(run: RunView) -> str:
        return "–" if run.history.seconds is None else duration(run.history.seconds)

    def epochs(run: RunView) -> str:
        return str(run.recipe.training.epochs)

    measures = {
        "parameters": parameters,
        "weights file": size,
        "epochs": epochs,
        "training time": training,
    }
    return [(name, tuple(measure(run) for run in runs)) for name, measure in measures.items()]


def measured_costs(
    runs: Sequence[RunView], prices: Sequence[Price]
) -> list[tuple[str, tuple[str, ...]]]:
    """What the models of the runs cost: a row a measure, a text a run.

    Where the first run has exactly the heads of all others together, its price is told as a share
    of theirs too: the price of sharing.
    """
    measures: dict[str, tuple[Callable[[Price], float], float, str]] = {
        "GFLOPs": (lambda price: price.multiply_adds, 1e9, ".2f"),
        "latency, ms": (lambda price: price.seconds, 1e-3, ".1f"),
        "peak memory, MB": (lambda price: price.memory, 1e6, ".0f"),
    }
    rows = [
        (name, tuple(_with_ratio(each, prices[0], value, unit, form) for each in prices))
        for name, (value, unit, form) in measures.items()
    ]
    if not _is_sum(runs):
        return rows
    values: dict[str, Callable[[Price], float]] = {"parameters": lambda price: price.parameters}
    values |= {name: value for name, (value, _, _) in measures.items()}
    for name, value in values.items():
        share = value(prices[0]) / max(sum(value(each) for each in prices[1:]), 1e-12)
        label = f"{name.partition(',')[0]}, share of the other runs together"
        rows.append((label, (f"{share:.2f}", *("–",) * (len(prices) - 1))))
    return rows


def _with_ratio(
    price: Price, first: Price, value: Callable[[Price], float], unit: float, form: str
) -> str:
    text = f"{value(price) / unit:{form}}"
    if price is first or not value(first):
        return text
    return f"{text} ({value(price) / value(first):.2f}x)"


def _is_sum(runs: Sequence[RunView]) -> bool:
    """Whether the first run has the heads of all others, each once."""
    first, *others = (list(run.labels.heads) for run in runs)
    return len(others) > 1 and sorted(first) == sorted(name for each in others for name in each)


def headline_rows(page: ComparisonPage) -> list[tuple[str, tuple[str, ...]]]:
    """The main metrics by head with differences to the first run, then costs: text for consoles."""
    rows = []
    for table in page.metrics:
        for name, unit, cells in table.rows:
            if name in HEADLINE:
                shown = f"{table.title}/{name}" + (f", {unit}" if unit else "")
                rows.append((shown, tuple(map(_cell_text, cells))))
    return [*rows, *page.costs]


def _cell_text(cell: Cell) -> str:
    if cell.score is None or cell.score.value is None:
        return "–"
    difference = "" if cell.difference is None else f" ({cell.difference:+.4f})"
    return f"{cell.score.value:.4f}{difference}"


def _learning(page: ComparisonPage) -> list[Chart]:
    """Main validation metrics and the sum of the losses of each head, one line a run."""
    charts = []
    histories = [run.history for run in page.runs]
    for key in _union(each.validation for each in histories):
        if key.partition("/")[2] not in CURVES[:6]:
            continue
        lines = [
            Line(name, history.validation[key])
            for name, history in zip(page.names, histories, strict=True)
            if key in history.validation
        ]
        charts.append(line_chart(f"{key}: validation", lines, Axes("epoch", "value", whole_x=True)))
    for head in _union({key.partition("/")[0]: 0 for key in each.losses} for each in histories):
        lines, sizes = [], set()
        for name, history in zip(page.names, histories, strict=True):
            points, size = smoothed(_summed(history, head))
            if points:
                sizes.add(size)
                lines.append(Line(name, points))
        text = "Sum of the head's loss terms"
        note = f"{text}; a point is the mean of up to {max(sizes)} logged steps."
        axes = Axes("optimizer step", "loss", whole_x=True)
        charts.append(line_chart(f"{head}: training loss", lines, axes, note=note))
    return charts


def _summed(history: History, head: str) -> list[tuple[float, float | None]]:
    totals: dict[float, float] = {}
    for key, points in history.losses.items():
        if key.partition("/")[0] == head:
            for x, y in points:
                if y is not None:
                    totals[x] = totals.get(x, 0.0) + y
    return sorted(totals.items())


def _warnings(page: ComparisonPage) -> list[str]:
    found = []
    for name, evaluation in zip(page.names, page.evaluations, strict=True):
        if evaluation is None:
            found.append(f"{name} has no evaluation.")
    known = [each for each in page.evaluations if each is not None]
    digests = {tuple(sorted((each.about.get("data") or {}).values())) for each in known}
    if len(digests) > 1:
        found.append(
            "The runs were judged on different annotation files (their sha256 differ): the numbers "
            "cannot be compared."
        )
    protocols = {json.dumps(each.about.get("protocol"), sort_keys=True) for each in known}
    if len(protocols) > 1:
        found.append("The runs were judged by different protocols; see their own reports.")
    if known and not all(each.has_intervals for each in known):
        found.append(
            "Not every evaluation has intervals; whether a difference is more than chance cannot "
            "be seen from it."
        )
    return found
