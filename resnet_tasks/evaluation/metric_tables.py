"""Metrics as JSON values and as console tables, and file digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from resnet_tasks.errors import limit_name, shorten_name
from resnet_tasks.runtime.console import Text
from resnet_tasks.structures.evaluation import HEADLINE, Metric, get_class_metric_name

CLASS_COLUMNS = 2
"""Number of per-class metrics on the console; more do not fit into 80 columns with intervals."""
NAME_WIDTH = 30
"""Number of characters of a class name next to two intervals in 80 columns."""
CLASS_ROWS = 20
"""Maximum number of classes of a complete table; of more, the lowest and the highest are shown."""
MAX_LINES = 28
"""Number of lines for the headline metrics and the shortened tables of classes, which leaves a line
of 30 for the prompt and one for a long title."""
FRAME_LINES = 5
"""Number of lines of a table besides its rows: title, header and borders."""


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
    metrics: Mapping[str, Metric],
    title: str = "",
    *,
    headline_only: bool = False,
    location: str = "in report and metrics.json",
) -> Group:
    """Build a table of metrics with 95 % intervals, and per-class tables of the headline metrics.

    The headline metrics of a head come first. Of many classes, only the lowest and the highest are
    shown, so that the headline metrics and the classes fit on a screen.

    Args:
        metrics: `head/metric` -> metric; without `head/` if there is no head.
        title: Title of the first table.
        headline_only: Whether to omit all other metrics of heads that have headline metrics.
        location: Where the values of all classes are, such as `in metrics.json`; printed in the
            title of a shortened table.
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
        other_names = [name for name in head_metrics if name not in headline]
        for name in headline if headline_only and headline else [*headline, *other_names]:
            head_metric = head_metrics[name]
            unit = f" {head_metric.unit}" if head_metric.unit else ""
            value = "-" if head_metric.value is None else f"{head_metric.value:.4f}{unit}"
            # `Text`, because the name of a head or class may look like markup.
            style = "bold" if name in headline else ""
            table.add_row(
                Text(name), Text(value), Text(_format_interval(head_metric.interval)), style=style
            )
    views = [_ClassView.from_metrics(head, metrics) for head, metrics in heads.items()]
    num_headline = sum(len(_select_headline(metrics) or metrics) for metrics in heads.values())
    tables = _build_class_tables([view for view in views if view], num_headline, location)
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


@dataclass(frozen=True)
class _ClassView:
    """Metrics of a head by class, for a table.

    Attributes:
        head: Name of the head; empty if there is none.
        metrics: Name of a column -> metric; the first one ranks the classes.
    """

    head: str
    metrics: dict[str, Metric]

    @classmethod
    def from_metrics(cls, head: str, metrics: Mapping[str, Metric]) -> _ClassView | None:
        """Select the first headline metrics of a head; return None if a table adds nothing."""
        names = _select_headline(metrics) or list(metrics)
        columns = [name for name in names if len(metrics[name].per_class) > 1][:CLASS_COLUMNS]
        if not columns or all(v is None for v in metrics[columns[0]].per_class.values()):
            return None
        return cls(head, {_strip_head(name): metrics[name] for name in columns})

    @property
    def names(self) -> list[str]:
        """Names of all classes."""
        return list(next(iter(self.metrics.values())).per_class)

    @property
    def is_long(self) -> bool:
        """True if only some of the classes are shown."""
        return len(self.names) > CLASS_ROWS

    def build_parts(self) -> list[Text | Table]:
        """Build the title and the table of all classes."""
        title = f"{self.head}, by class" if self.head else "by class"
        return [_build_title(title), self._build_table(self.names)]

    def build_extreme_parts(self, number: int, location: str) -> list[Text | Table]:
        """Build the title and the table of the lowest and the highest classes.

        Args:
            number: Maximum number of classes, even; below 2 there is no table.
            location: Where the values of all classes are, such as `in metrics.json`.
        """
        names, selection = self._select_extremes(number)
        subject = self.head or "by class"
        title = _build_title(f"{subject}: {selection}all {len(self.names)} {location}")
        return [title, self._build_table(names)] if names else [title]

    def _select_extremes(self, number: int) -> tuple[list[str], str]:
        """Return the lowest and the highest classes, and a description of the selection."""
        if number < 2:
            return [], "classes are not shown; "
        values = next(iter(self.metrics.values())).per_class
        defined = {name: value for name, value in values.items() if value is not None}
        ranked = sorted(defined, key=lambda name: defined[name])
        if len(ranked) <= number:
            return ranked, f"{len(ranked)} with a value; "
        half = number // 2
        selection = f"{half} lowest, {half} highest of {len(ranked)}; "
        return [*ranked[:half], *ranked[-half:]], selection

    def _build_table(self, names: Sequence[str]) -> Table:
        """Build the table with the given classes as rows."""
        table = Table()
        table.add_column("class", overflow="fold")
        for name in self.metrics:
            table.add_column(Text(get_class_metric_name(name)), justify="right", no_wrap=True)
        for label in names:
            values = (_format_class_value(metric, label) for metric in self.metrics.values())
            # A long name would be folded into several lines.
            shown_name = shorten_name(label, NAME_WIDTH) if self.is_long else limit_name(label)
            table.add_row(Text(shown_name), *map(Text, values))
        return table


def _build_class_tables(
    views: Sequence[_ClassView], num_headline: int, location: str
) -> list[Text | Table]:
    """Build the tables of classes; long ones share the lines that are left by the headline metrics.

    Args:
        views: Metrics by class of the heads that have several classes.
        num_headline: Number of headline metrics above the tables.
        location: Where the values of all classes are, such as `in metrics.json`.
    """
    num_long = sum(view.is_long for view in views)
    num_free = MAX_LINES - FRAME_LINES - num_headline
    # The first heads get a table; a head without enough lines for one gets a line.
    num_tables = num_long
    while num_tables and _count_rows(num_free, num_long, num_tables) < 2:
        num_tables -= 1
    num_rows = min(CLASS_ROWS, _count_rows(num_free, num_long, num_tables)) if num_tables else 0
    parts: list[Text | Table] = []
    for view in views:
        if not view.is_long:
            parts += view.build_parts()
        else:
            parts += view.build_extreme_parts(num_rows if num_tables else 0, location)
            num_tables = max(0, num_tables - 1)
    return parts


def _count_rows(num_free: int, num_heads: int, num_tables: int) -> int:
    """Return the number of rows of a table, even, if `num_tables` of the heads get one."""
    share = (num_free - (num_heads - num_tables)) // num_tables
    return (share - FRAME_LINES) // 2 * 2


def _strip_head(name: str) -> str:
    return name.rpartition("/")[2]


def _format_class_value(metric: Metric, label: str) -> str:
    """Format the value of a class with the digits of the column, with or without an interval."""
    value, interval = metric.per_class.get(label), metric.per_class_interval.get(label)
    if value is not None and interval is None and any(metric.per_class_interval.values()):
        return f"{value:.3f} {'no interval':>14}"
    return format_number(value, interval)


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
