"""Comparison of several runs: metrics, classes, learning curves, recipes and costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_tasks.errors import RunError, format_list
from resnet_tasks.number_formats import format_bytes, format_duration
from resnet_tasks.report.charts import Axes, Chart, Line, draw_line_chart
from resnet_tasks.report.comparison_cells import (
    ComparisonCell,
    PairedIntervals,
    build_cells,
    compute_paired_intervals,
)
from resnet_tasks.report.history import History, smooth
from resnet_tasks.report.learning_charts import CURVES
from resnet_tasks.report.page_fragments import PageFragment, build_fragment
from resnet_tasks.report.run_view import EvaluationView, RunView
from resnet_tasks.runs.model_cost import CostComparison, ModelCost
from resnet_tasks.structures.evaluation import get_class_metric_name, select_headline


@dataclass(frozen=True)
class ComparisonTable:
    """Table of scores with one column per run.

    Attributes:
        title: Title of the table, with the name of the head.
        rows: Name, unit and one cell per run.
    """

    title: str
    rows: tuple[tuple[str, str, tuple[ComparisonCell, ...]], ...]


@dataclass
class ComparisonPage:
    """Contents of the page that compares several runs.

    Attributes:
        runs: Runs in the requested order; the others are compared with the first one.
        names: Distinct display name of each run.
        evaluations: Evaluation of each run that is compared; None if the run has none.
        metrics: One table per head with all metrics.
        classes: One table per head with the main metric per class.
        recipes: Key path and its value in every run, for keys whose values differ.
        costs: Name of a cost and its value in every run.
        conditions: Conditions of the cost measurement; empty if costs were not measured.
        learning: Charts with the learning curves of all runs.
        warnings: Reasons why the numbers may not be comparable.
    """

    runs: list[RunView]
    names: list[str]
    evaluations: list[EvaluationView | None]
    metrics: list[ComparisonTable] = field(default_factory=list)
    classes: list[ComparisonTable] = field(default_factory=list)
    recipes: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    costs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    conditions: str = ""
    learning: PageFragment = field(default_factory=PageFragment)
    warnings: list[str] = field(default_factory=list)


def make_comparison(
    runs: Sequence[RunView], evaluation: str | None, prices: CostComparison | None = None
) -> ComparisonPage:
    """Collect the contents of the page that compares several runs.

    Args:
        runs: Runs to compare, at least two.
        evaluation: Name of the evaluation to compare; None: the first run's latest evaluation that
            all runs have, otherwise the latest of each run.
        prices: Measured costs of the models, in the order of the runs; None: not shown.

    Raises:
        RunError: If there are fewer than two runs, or one lacks the named evaluation.
    """
    if len(runs) < 2:
        raise RunError("compare needs at least two runs; add another run folder")
    evaluations = _find_evaluations(runs, evaluation)
    page = ComparisonPage(
        list(runs), make_distinct_names([run.folder for run in runs]), evaluations
    )
    paired = [compute_paired_intervals(evaluations[0], other) for other in evaluations[1:]]
    page.metrics = _compare_metrics(evaluations, paired)
    page.classes = _compare_classes(evaluations, paired)
    page.recipes = find_recipe_differences(runs)
    page.costs = list_costs(runs)
    if prices is not None:
        page.costs += list_measured_costs(runs, list(prices.by_model.values()))
        page.conditions = prices.conditions
    page.learning = build_fragment(lambda: _draw_learning_curves(page))
    page.warnings = _find_warnings(page, paired)
    return page


def make_distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest distinct suffixes of the paths; equal paths are numbered instead."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path_parts[-length:]) for path_parts in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({i})" for i, folder in enumerate(folders, start=1)]


def _find_evaluations(runs: Sequence[RunView], name: str | None) -> list[EvaluationView | None]:
    if name is not None:
        return [run.find_evaluation(name) for run in runs]
    names_by_run = [{evaluation.name for evaluation in run.evaluations} for run in runs]
    shared = next(
        (e.name for e in runs[0].evaluations if all(e.name in names for names in names_by_run)),
        None,
    )
    return [run.find_evaluation(shared) for run in runs]


def _compare_metrics(
    evaluations: Sequence[EvaluationView | None], paired: Sequence[PairedIntervals]
) -> list[ComparisonTable]:
    comparisons = []
    for head in _merge_keys(evaluation.heads if evaluation else {} for evaluation in evaluations):
        tables = [
            evaluation.heads.get(head, {}) if evaluation else {} for evaluation in evaluations
        ]
        rows = []
        for name in _merge_keys(tables):
            metrics = [table.get(name) for table in tables]
            first_metric = next(metric for metric in metrics if metric is not None)
            cells = build_cells(
                f"{head}/{name}", metrics, paired, lower_is_better=first_metric.lower_is_better
            )
            rows.append((name, first_metric.unit, cells))
        comparisons.append(ComparisonTable(head, tuple(rows)))
    return comparisons


def _compare_classes(
    evaluations: Sequence[EvaluationView | None], paired: Sequence[PairedIntervals]
) -> list[ComparisonTable]:
    """Return the table of the main metric per class for every head."""
    comparisons = []
    for head in _merge_keys(evaluation.heads if evaluation else {} for evaluation in evaluations):
        tables = [
            evaluation.heads.get(head, {}) if evaluation else {} for evaluation in evaluations
        ]
        with_classes = [
            name
            for name in _merge_keys(tables)
            if any(t[name].per_class for t in tables if name in t)
        ]
        if not with_classes:
            continue
        name = select_headline(with_classes)[0]
        metrics = [table.get(name) for table in tables]
        lower_is_better = any(metric.lower_is_better for metric in metrics if metric)
        classes = _merge_keys(metric.per_class if metric else {} for metric in metrics)
        rows = tuple(
            (
                label,
                "",
                build_cells(
                    f"{head}/{name}/{label}",
                    [m.per_class.get(label) if m else None for m in metrics],
                    paired,
                    lower_is_better=lower_is_better,
                ),
            )
            for label in classes
        )
        comparisons.append(ComparisonTable(f"{head}: {get_class_metric_name(name)}", rows))
    return comparisons


def _merge_keys(tables: Any) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def find_recipe_differences(runs: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the key paths of the recipes whose values differ between runs, with their values."""
    flat = [_flatten(run.recipe.model_dump(mode="json")) for run in runs]
    return [
        (key, tuple(recipe.get(key, "–") for recipe in flat))
        for key in _merge_keys(flat)
        if len({recipe.get(key) for recipe in flat}) > 1
    ]


def _flatten(value: Any, path: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        inner = (
            _flatten(child, f"{path}.{key}" if path else str(key)) for key, child in value.items()
        )
        return {key: text for part in inner for key, text in part.items()}
    if isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        inner = (_flatten(child, f"{path}[{i}]") for i, child in enumerate(value))
        return {key: text for part in inner for key, text in part.items()}
    return {path: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def list_costs(runs: Sequence[RunView]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the costs recorded in the run folders: one row per measure, one text per run."""

    def format_parameters(run: RunView) -> str:
        return f"{sum(run.parameters.values()) / 1e6:.2f} M" if run.parameters else "–"

    def format_size(run: RunView) -> str:
        return "–" if run.weights_bytes is None else format_bytes(run.weights_bytes)

    def format_training_time(run: RunView) -> str:
        return "–" if run.history.seconds is None else format_duration(run.history.seconds)

    def format_epochs(run: RunView) -> str:
        return str(run.recipe.training.epochs)

    measures = {
        "parameters": format_parameters,
        "weights file": format_size,
        "epochs": format_epochs,
        "training time": format_training_time,
    }
    return [(name, tuple(measure(run) for run in runs)) for name, measure in measures.items()]


def list_measured_costs(
    runs: Sequence[RunView], model_costs: Sequence[ModelCost]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the measured costs of the models: one row per measure, one text per run.

    If the heads of the first run are exactly those of all other runs together, its cost is also
    given as a fraction of their sum. That fraction shows the benefit of a shared backbone.
    """
    measures: dict[str, tuple[Callable[[ModelCost], float], float, str]] = {
        "GFLOPs": (lambda model_cost: model_cost.multiply_adds, 1e9, ".2f"),
        "latency, ms": (lambda model_cost: model_cost.seconds, 1e-3, ".1f"),
        "peak memory, MB": (lambda model_cost: model_cost.memory, 1e6, ".0f"),
    }
    rows = [
        (
            name,
            tuple(
                _format_with_ratio(model_cost, model_costs[0], value, unit, form)
                for model_cost in model_costs
            ),
        )
        for name, (value, unit, form) in measures.items()
    ]
    if not _is_sum(runs):
        return rows
    values: dict[str, Callable[[ModelCost], float]] = {
        "parameters": lambda model_cost: model_cost.parameters
    }
    values |= {name: value for name, (value, _, _) in measures.items()}
    for name, value in values.items():
        fraction = value(model_costs[0]) / max(
            sum(value(model_cost) for model_cost in model_costs[1:]), 1e-12
        )
        label = f"{name.partition(',')[0]}, relative to the sum of the other runs"
        rows.append((label, (f"{fraction:.2f}", *("–",) * (len(model_costs) - 1))))
    return rows


def _format_with_ratio(
    model_cost: ModelCost,
    first: ModelCost,
    value: Callable[[ModelCost], float],
    unit: float,
    form: str,
) -> str:
    text = f"{value(model_cost) / unit:{form}}"
    if model_cost is first or not value(first):
        return text
    return f"{text} ({value(model_cost) / value(first):.2f}x)"


def _is_sum(runs: Sequence[RunView]) -> bool:
    """Return whether the first run has exactly the heads of all other runs together."""
    first, *other_heads = (list(run.labels.heads) for run in runs)
    return len(other_heads) > 1 and sorted(first) == sorted(
        name for heads in other_heads for name in heads
    )


def list_headline_rows(page: ComparisonPage) -> list[tuple[str, tuple[str, ...]]]:
    """Return the headline metrics with their differences, then the costs, as console text."""
    rows = []
    for table in page.metrics:
        headline = select_headline(name for name, _, _ in table.rows)
        for name, unit, cells in table.rows:
            if name in headline:
                label = f"{table.title}/{name}" + (f", {unit}" if unit else "")
                rows.append((label, tuple(map(_format_cell, cells))))
    return [*rows, *page.costs]


def _format_cell(cell: ComparisonCell) -> str:
    if cell.score is None or cell.score.value is None:
        return "–"
    difference = "" if cell.difference is None else f" ({cell.difference:+.4f})"
    return f"{cell.score.value:.4f}{difference}"


def _draw_learning_curves(page: ComparisonPage) -> list[Chart]:
    """Draw the main validation metrics and the summed losses of each head, one line per run."""
    charts = []
    histories = [run.history for run in page.runs]
    for key in _merge_keys(history.validation for history in histories):
        if key.partition("/")[2] not in CURVES[:6]:
            continue
        lines = [
            Line(name, history.validation[key])
            for name, history in zip(page.names, histories, strict=True)
            if key in history.validation
        ]
        charts.append(
            draw_line_chart(f"{key}: validation", lines, Axes("epoch", "value", integer_x=True))
        )
    for head in _merge_keys(
        {key.partition("/")[0]: 0 for key in history.losses} for history in histories
    ):
        lines, sizes = [], set()
        for name, history in zip(page.names, histories, strict=True):
            points, size = smooth(_sum_losses(history, head))
            if points:
                sizes.add(size)
                lines.append(Line(name, points))
        text = "Sum of the head's loss terms"
        note = f"{text}; a point is the mean of up to {max(sizes)} logged steps."
        axes = Axes("optimizer step", "loss", integer_x=True)
        charts.append(draw_line_chart(f"{head}: training loss", lines, axes, note=note))
    return charts


def _sum_losses(history: History, head: str) -> list[tuple[float, float | None]]:
    totals: dict[float, float] = {}
    for key, points in history.losses.items():
        if key.partition("/")[0] == head:
            for x, y in points:
                if y is not None:
                    totals[x] = totals.get(x, 0.0) + y
    return sorted(totals.items())


def _find_warnings(page: ComparisonPage, paired: Sequence[PairedIntervals]) -> list[str]:
    warnings = []
    for name, evaluation in zip(page.names, page.evaluations, strict=True):
        if evaluation is None:
            warnings.append(f"{name} has no evaluation.")
    for name, run in zip(page.names, page.runs, strict=True):
        if gaps := run.history.describe_gaps():
            warnings.append(f"{name}: {gaps}")
    evaluations = [evaluation for evaluation in page.evaluations if evaluation is not None]
    digests = {
        tuple(sorted((evaluation.metadata.get("data") or {}).values()))
        for evaluation in evaluations
    }
    if len(digests) > 1:
        files = "; ".join(
            f"{name} on {format_list((evaluation.metadata.get('data') or {}), 2)}"
            for name, evaluation in zip(page.names, page.evaluations, strict=True)
            if evaluation is not None
        )
        warnings.append(
            "The runs were evaluated on different annotation files (their sha256 differ), so the "
            f"metrics cannot be compared: {files}."
        )
    protocols = {
        json.dumps(evaluation.metadata.get("protocol"), sort_keys=True)
        for evaluation in evaluations
    }
    if len(protocols) > 1:
        warnings.append(
            "The runs were evaluated with different protocols; see the reports of the runs."
        )
    warnings += [
        f"The differences between {name} and {page.names[0]} have no intervals, so they may be "
        f"chance: {run_intervals.problem}."
        for name, run_intervals in zip(page.names[1:], paired, strict=True)
        if run_intervals.problem
    ]
    return warnings
