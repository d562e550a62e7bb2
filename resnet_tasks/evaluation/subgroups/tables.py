"""Console tables of metrics by subgroup, the worst subgroup first."""

from __future__ import annotations

from rich.table import Table

from resnet_tasks.errors import shorten_name
from resnet_tasks.evaluation.metric_tables import format_number
from resnet_tasks.evaluation.subgroups.results import SubgroupMetrics, SubgroupResult
from resnet_tasks.runtime.console import Console, Text

MAX_ROWS = 20
"""Maximum number of subgroups of a table; of more, the worst are shown."""
NAME_WIDTH = 30
"""Maximum number of characters of a subgroup's name."""


def print_subgroup_tables(metrics: SubgroupMetrics, console: Console) -> None:
    """Print one table per key and head, followed by notes and warnings.

    Args:
        metrics: Metrics of all subgroups.
        console: Console to print to. Notes and warnings are one line each, so that they can be
            searched and copied.
    """
    tables: dict[tuple[str, str], list[SubgroupResult]] = {}
    for result in metrics.results:
        tables.setdefault((result.key, result.head), []).append(result)
    for (key, head), results in tables.items():
        metric = f"{head}/{results[0].main_metric}" if head else results[0].main_metric
        hidden = len(results) - MAX_ROWS
        selection = f"; {MAX_ROWS} of {len(results)}" if hidden > 0 else ""
        title = Text(f"{metric} by {key}, worst first{selection}", style="italic")
        console.print(title, soft_wrap=True)
        console.print(_build_table(results[:MAX_ROWS]))
    for note in metrics.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for warning in metrics.warnings:
        console.print(Text(f"warning: {warning}", style="bold"), soft_wrap=True)


def _build_table(results: list[SubgroupResult]) -> Table:
    table = Table()
    table.add_column("subgroup", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column(Text(results[0].main_metric), justify="right", no_wrap=True)
    table.add_column("minus all others", justify="right", no_wrap=True)
    for result in results:
        comparison = result.comparison
        difference = "-"
        if comparison is not None:
            difference = format_number(comparison.difference, comparison.interval, signed=True)
        is_far_below = comparison is not None and comparison.is_far_below
        table.add_row(
            # `Text`, because the name of a subgroup may look like markup.
            Text(shorten_name(result.name, NAME_WIDTH)),
            str(result.images),
            Text(format_number(result.main.value, result.main.interval)),
            Text(difference),
            style="bold red" if is_far_below else "",
        )
    return table
