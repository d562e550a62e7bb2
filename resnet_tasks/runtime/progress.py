"""Progress bar on the console. The columns below are the only place that defines its look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

Advance = Callable[..., None]
"""Function that advances a bar by `count` steps (default: 1), and replaces the `detail` next to
it."""
Report = Callable[[int, int], None]
"""Function that takes the completed and the total amount of work."""


class _DetailColumn(ProgressColumn):
    """Text that is cut off where the console is too narrow for it."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["detail"], no_wrap=True, overflow="ellipsis")


@contextmanager
def track_progress(
    console: Console, text: str, total: int, *, completed: int = 0
) -> Iterator[Advance]:
    """Show a progress bar inside the block; yield the function that advances it.

    Args:
        console: Console; the bar is shown on a terminal only.
        text: Label of the bar.
        total: Number of steps.
        completed: Number of steps that are already done.
    """
    with _show_bar(console, text, MofNCompleteColumn()) as (bar, task):
        bar.update(task, total=total, completed=completed)
        yield lambda count=1, detail="": bar.update(task, advance=count, detail=detail)


@contextmanager
def report_progress(console: Console, text: str) -> Iterator[Report]:
    """Show a progress bar inside the block; yield the function that reports an amount of work.

    Args:
        console: Console; the bar is shown on a terminal only.
        text: Label of the bar.
    """
    with _show_bar(console, text) as (bar, task):
        yield lambda completed, total: bar.update(task, completed=completed, total=total)


@contextmanager
def _show_bar(
    console: Console, text: str, *amounts: ProgressColumn
) -> Iterator[tuple[Progress, TaskID]]:
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
        TextColumn("{task.percentage:>3.0f}%"),
        *amounts,
        _DetailColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        yield bar, bar.add_task(text, total=None, detail="")
