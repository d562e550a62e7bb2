"""Progress bar on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def track_progress(console: Console, text: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar inside the block; yield the function that advances it by one.

    Args:
        console: Console; the bar is shown on a terminal only.
        text: Label of the bar.
        total: Number of steps.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
