"""Metrics as JSON values and as a table for people, and what a number was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from resnet_tasks.metrics import Metric


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


def metric_table(metrics: Mapping[str, Metric], title: str = "") -> Table:
    """Headline metrics with their 95 % intervals and per-class values, for a console."""
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value [95 % interval]", justify="right")
    table.add_column("by class")
    for name, metric in metrics.items():
        classes = ", ".join(
            f"{each} {number(value, metric.per_class_interval.get(each))}"
            for each, value in metric.per_class.items()
        )
        unit = f" {metric.unit}" if metric.unit else ""
        # As text: a class may be named like markup.
        value = Text(number(metric.value, metric.interval) + unit)
        table.add_row(Text(name), value, Text(classes))
    return table


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
