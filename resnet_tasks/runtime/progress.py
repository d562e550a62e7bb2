"""Progress bar on the console. `_Line` is the only place that defines its look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.spinner import Spinner

from resnet_tasks.runtime.console import Console, Text

Advance = Callable[..., None]
"""Function that advances a bar by `count` steps (default: 1). `detail` is the text at the end of
the line, `extras` are texts that are shown only if the console has room for them, `seconds_left` is
the time left if the caller states it."""
Report = Callable[[int, int], None]
"""Function that takes the completed and the total amount of work."""
BAR_WIDTH = 10
LEAST_BAR_WIDTH = 3
"""Width below which the bar is not drawn; the percentage shows the same."""
LEAST_LABEL_WIDTH = 16
"""Width to which a label may always extend; beyond it, a label takes a third of the console."""


@dataclass(frozen=True)
class _Line:
    """Line of a progress bar: texts first, then the bar and the extras in the remaining width.

    A table of columns would shrink all of them in a narrow console. Here the end of the line is
    cut off, so that the texts are ordered by importance.
    """

    task: Task
    spinner: Text

    def __rich_console__(self, console: Any, options: ConsoleOptions) -> Iterator[Segment]:
        width, task = options.max_width, self.task
        start = Text.assemble(self.spinner, " ", task.description)
        end = Text(" ").join(self._list_texts())
        bar_width = min(BAR_WIDTH, width - start.cell_len - end.cell_len - 2)
        if bar_width < LEAST_BAR_WIDTH:
            line = Text.assemble(start, " ", end)
            line.truncate(width, overflow="ellipsis")
            yield from line.render(console)
            return
        for text in task.fields["extras"]:
            longer = Text.assemble(end, "  ", text)
            if start.cell_len + bar_width + longer.cell_len + 2 > width:
                break
            end = longer
        bar = ProgressBar(
            total=task.total,
            completed=task.completed,
            width=bar_width,
            animation_time=task.get_time(),
        )
        yield from Text.assemble(start, " ").render(console)
        # Without colors, rich does not draw the empty part of the bar.
        yield from Segment.adjust_line_length(list(console.render(bar, options)), bar_width)
        yield from Text.assemble(" ", end).render(console)

    def _list_texts(self) -> list[Text]:
        """Return percentage, number of steps, time left and detail."""
        task, fields = self.task, self.task.fields
        label, seconds = fields["time_label"], fields["seconds_left"]
        if label is None:
            label, seconds = "left", task.time_remaining
        texts = [Text(f"{task.percentage:>3.0f}%", "progress.percentage")]
        if fields["counts_steps"]:
            texts.append(Text(f"{task.completed:.0f}/{task.total or 0:.0f}", "progress.download"))
        texts.append(Text(f"{_format_clock(seconds)} {label}", "progress.remaining"))
        if fields["detail"]:
            texts.append(Text(fields["detail"]))
        return texts


class _LineColumn(ProgressColumn):
    """Only column of the progress bar; it renders the complete line."""

    def __init__(self) -> None:
        super().__init__()
        self._spinner = Spinner("dots")

    def render(self, task: Task) -> RenderableType:
        frame = " " if task.finished else str(self._spinner.render(task.get_time()))
        return _Line(task, Text(frame, "progress.spinner"))


@contextmanager
def track_progress(
    console: Console, text: str, total: int, *, completed: int = 0, time_label: str | None = None
) -> Iterator[Advance]:
    """Show a progress bar inside the block; yield the function that advances it.

    Args:
        console: Console; the bar is shown on a terminal only.
        text: Label of the bar.
        total: Number of steps.
        completed: Number of steps that are already done.
        time_label: Text after the time left that the caller states as `seconds_left`; None: the
            bar estimates the time until it is full.
    """
    fields = {"time_label": time_label, "counts_steps": True}
    with _show_bar(console, text, total, completed, **fields) as (bar, task):

        def advance(
            count: int = 1,
            detail: str = "",
            extras: Sequence[str] = (),
            seconds_left: float | None = None,
        ) -> None:
            bar.update(task, advance=count, detail=detail, extras=extras, seconds_left=seconds_left)

        yield advance


@contextmanager
def report_progress(console: Console, text: str) -> Iterator[Report]:
    """Show a progress bar inside the block; yield the function that reports an amount of work.

    Args:
        console: Console; the bar is shown on a terminal only.
        text: Label of the bar.
    """
    with _show_bar(console, text, time_label=None, counts_steps=False) as (bar, task):
        yield lambda completed, total: bar.update(task, completed=completed, total=total)


@contextmanager
def _show_bar(
    console: Console, text: str, total: int | None = None, completed: int = 0, **fields: Any
) -> Iterator[tuple[Progress, TaskID]]:
    with Progress(
        _LineColumn(),
        console=console,
        transient=True,
        expand=True,
        disable=not console.is_terminal,
    ) as bar:
        label = _shorten(text, max(console.width // 3, LEAST_LABEL_WIDTH))
        fields |= {"detail": "", "extras": (), "seconds_left": None}
        yield bar, bar.add_task(label, total=total, completed=completed, **fields)


def _format_clock(seconds: float | None) -> str:
    """Format a duration as `h:mm:ss`."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _shorten(text: str, width: int) -> str:
    """Put a text on one line, and replace the middle of a long one, such as a path, by `…`."""
    text = " ".join(text.split())
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
