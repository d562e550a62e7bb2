"""Metrics as JSON values and as a table for people, and what a number was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from resnet_tasks.metrics import HEADLINE, Metric

CLASS_COLUMNS = 2
"""Metrics by class on a console: as many as fit into 80 columns with their intervals."""
CLASS_ROWS = 20
"""Classes on a console; of more the lowest and the highest are shown."""


def metric_json(metric: Metric) -> dict[str, Any]:
    """A metric as it stands in `metrics.json`: `interval` null where none was made."""
    plain: dict[str, Any] = {"value": metric.value, "interval": _pair(metric.interval)}
    if metric.per_class:
        plain["per_class"] = dict(metric.per_class)
        found = {name: _pair(each) for name, each in metric.per_class_interval.items()}
        plain["per_class_interval"] = {name: found.get(name) for name in metric.per_class}
    if metric.unit:
        plain["unit"] = metric.unit
    if metric.lower_is_better:
        plain["lower_is_better"] = True
    return plain


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)


def metric_tables(
    metrics: Mapping[str, Metric], title: str = "", *, headline_only: bool = False
) -> Group:
    """Metrics with their 95 % intervals, a line each, then the headline ones by class.

    Args:
        metrics: `head/metric` -> metric; without `head/` where there is none.
        title: Of the first table.
        headline_only: Leaves out the others, of heads that have headline metrics.
    """
    heads: dict[str, dict[str, Metric]] = {}
    for name, metric in metrics.items():
        heads.setdefault(name.rpartition("/")[0], {})[name] = metric
    table = Table()
    # Names are folded where even they are too wide, never cut.
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    for of_head in heads.values():
        headline = _headline(of_head)
        for name, each in of_head.items():
            if headline_only and headline and name not in headline:
                continue
            unit = f" {each.unit}" if each.unit else ""
            value = "-" if each.value is None else f"{each.value:.4f}{unit}"
            # As text: a head or a class may be named like markup.
            style = "bold" if name in headline else ""
            table.add_row(Text(name), Text(value), Text(_span(each.interval)), style=style)
    tables = [part for head, of_head in heads.items() for part in _class_table(head, of_head)]
    return Group(*([_title(title)] if title else []), table, *tables)


def _title(text: str) -> Text:
    # Not the table's own title: that is broken where the table is narrow.
    return Text(text, style="italic")


def _headline(metrics: Mapping[str, Metric]) -> list[str]:
    """The headline metrics among those of a head, the most telling first."""
    rank = {name: HEADLINE.index(_bare(name)) for name in metrics if _bare(name) in HEADLINE}
    return sorted(rank, key=lambda name: rank[name])


def _class_table(head: str, metrics: Mapping[str, Metric]) -> list[Text | Table]:
    """The first headline metrics of a head by class; nothing where there is but one class."""
    named = _headline(metrics) or list(metrics)
    columns = [name for name in named if len(metrics[name].per_class) > 1][:CLASS_COLUMNS]
    first = metrics[columns[0]].per_class if columns else {}
    if all(value is None for value in first.values()):
        return []
    rows = list(first)
    title = f"{head}, by class" if head else "by class"
    if len(rows) > CLASS_ROWS:
        known = {name: value for name, value in first.items() if value is not None}
        ranked = sorted(known, key=lambda name: known[name])
        if len(ranked) > CLASS_ROWS:
            ranked = ranked[: CLASS_ROWS // 2] + ranked[-CLASS_ROWS // 2 :]
        title += f": the lowest and highest {len(ranked)} of {len(rows)}"
        rows = ranked
    table = Table()
    table.add_column("class", overflow="fold")
    for name in columns:
        table.add_column(Text(_bare(name)), justify="right", no_wrap=True)
    for label in rows:
        each = (metrics[name] for name in columns)
        values = (number(m.per_class.get(label), m.per_class_interval.get(label)) for m in each)
        table.add_row(Text(label), *map(Text, values))
    return [_title(title), table]


def _bare(name: str) -> str:
    return name.rpartition("/")[2]


def _span(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def number(
    value: float | None, interval: tuple[float, float] | None = None, *, signed: bool = False
) -> str:
    """`0.605 [0.571, 0.640]`, for people; a dash where there is no value."""
    sign = "+" if signed else ""
    if value is None:
        return "-"
    if interval is None:
        return f"{value:{sign}.4f}"
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def file_sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
