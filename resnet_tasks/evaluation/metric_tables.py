"""Metrics as JSON values and as console tables, and file digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from resnet_tasks.structures.evaluation import HEADLINE, Metric

CLASS_COLUMNS = 2
"""Number of per-class metrics on the console; more do not fit into 80 columns with intervals."""
CLASS_ROWS = 20
"""Maximum number of classes on the console; of more, the lowest and the highest are shown."""


def metric_to_json(metric: Metric) -> dict[str, Any]:
    """Convert a metric to its entry in `metrics.json`; `interval` is null if none was computed."""
    plain: dict[str, Any] = {"value": metric.value, "interval": _interval_to_list(metric.interval)}
    if metric.per_class:
        plain["per_class"] = dict(metric.per_class)
        intervals = {
            name: _interval_to_list(interval)
            for name, interval in metric.per_class_interval.items()
        }
        plain["per_class_interval"] = {name: intervals.get(name) for name in metric.per_class}
    if metric.unit:
        plain["unit"] = metric.unit
    if metric.lower_is_better:
        plain["lower_is_better"] = True
    return plain


def _interval_to_list(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def build_metric_tables(
    metrics: Mapping[str, Metric], title: str = "", *, headline_only: bool = False
) -> Group:
    """Build a table of metrics with 95 % intervals, and per-class tables of the headline metrics.

    The headline metrics of a head come first.

    Args:
        metrics: `head/metric` -> metric; without `head/` if there is no head.
        title: Title of the first table.
        headline_only: Whether to omit all other metrics of heads that have headline metrics.
    """
    heads: dict[str, dict[str, Metric]] = {}
    for name, metric in metrics.items():
        heads.setdefault(name.rpartition("/")[0], {})[name] = metric
    table = Table()
    # Names that are too wide are folded, never truncated.
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    for head_metrics in heads.values():
        headline = _select_headline(head_metrics)
        others = [name for name in head_metrics if name not in headline]
        for name in headline if headline_only and headline else [*headline, *others]:
            head_metric = head_metrics[name]
            unit = f" {head_metric.unit}" if head_metric.unit else ""
            value = "-" if head_metric.value is None else f"{head_metric.value:.4f}{unit}"
            # `Text`, because the name of a head or class may look like markup.
            style = "bold" if name in headline else ""
            table.add_row(
                Text(name), Text(value), Text(_format_interval(head_metric.interval)), style=style
            )
    tables = [
        part
        for head, head_metrics in heads.items()
        for part in _build_class_table(head, head_metrics)
    ]
    return Group(*([_build_title(title)] if title else []), table, *tables)


def _build_title(text: str) -> Text:
    # Not the title of the `Table`, which is wrapped to the width of the table.
    return Text(text, style="italic")


def _select_headline(metrics: Mapping[str, Metric]) -> list[str]:
    """Return the headline metrics of a head, the most informative first."""
    rank = {
        name: HEADLINE.index(_strip_head(name)) for name in metrics if _strip_head(name) in HEADLINE
    }
    return sorted(rank, key=lambda name: rank[name])


def _build_class_table(head: str, metrics: Mapping[str, Metric]) -> list[Text | Table]:
    """Build the per-class table of a head's first headline metrics; empty for a single class."""
    metric_names = _select_headline(metrics) or list(metrics)
    columns = [name for name in metric_names if len(metrics[name].per_class) > 1][:CLASS_COLUMNS]
    first = metrics[columns[0]].per_class if columns else {}
    if all(value is None for value in first.values()):
        return []
    rows = list(first)
    title = f"{head}, by class" if head else "by class"
    if len(rows) > CLASS_ROWS:
        defined = {name: value for name, value in first.items() if value is not None}
        ranked = sorted(defined, key=lambda name: defined[name])
        if len(ranked) > CLASS_ROWS:
            ranked = ranked[: CLASS_ROWS // 2] + ranked[-CLASS_ROWS // 2 :]
        title += f": the lowest and highest {len(ranked)} of {len(rows)}"
        rows = ranked
    table = Table()
    table.add_column("class", overflow="fold")
    for name in columns:
        table.add_column(Text(_strip_head(name)), justify="right", no_wrap=True)
    for label in rows:
        column_metrics = (metrics[name] for name in columns)
        values = (
            format_number(m.per_class.get(label), m.per_class_interval.get(label))
            for m in column_metrics
        )
        table.add_row(Text(label), *map(Text, values))
    return [_build_title(title), table]


def _strip_head(name: str) -> str:
    return name.rpartition("/")[2]


def _format_interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def format_number(
    value: float | None, interval: tuple[float, float] | None = None, *, signed: bool = False
) -> str:
    """Format a value as `0.605 [0.571, 0.640]`; a dash if there is no value."""
    sign = "+" if signed else ""
    if value is None:
        return "-"
    if interval is None:
        return f"{value:{sign}.4f}"
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
