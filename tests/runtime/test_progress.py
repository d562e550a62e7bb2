"""Progress bar: one line of the console, on terminals only."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from resnet_tasks.runtime.progress import report_progress, track_progress

LONG = "12.3 images/s " + " ".join(f"objects/term_{number} 0.123" for number in range(9))


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    """Return a console of a terminal, and its output."""
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=width, color_system=None), output


def last_line(output: io.StringIO) -> str:
    """Return the line that the last update of the bar printed."""
    lines = re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", output.getvalue())
    return [line for line in lines if "left" in line][-1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_fits_the_console(width: int) -> None:
    console, output = terminal(width)
    with track_progress(console, "epoch 10/100", 50_000, completed=1_200) as advance:
        advance(5, LONG)
    line = last_line(output)
    assert len(line) <= width
    for text in ("epoch 10/100", "2%", "0:", "left"):
        assert text in line
    if width >= 80:
        assert "1205/50000 12.3 images/s" in line


def test_steps_and_details() -> None:
    console, output = terminal()
    with track_progress(console, "Reading [1]", 4) as advance:
        advance()
        advance(detail="fast")
    line = last_line(output)
    assert re.search(r"Reading \[1\] .* 50% 2/4 +fast ", line)


def test_amounts_that_are_reported() -> None:
    console, output = terminal()
    with report_progress(console, "Unpacking") as report:
        report(250_000_000_000, 1_000_000_000_000)
    assert re.search(r"Unpacking .* 25% ", last_line(output))
    assert "1000000000000" not in output.getvalue()


def test_nothing_is_shown_without_a_terminal() -> None:
    output = io.StringIO()
    console = Console(file=output)
    with track_progress(console, "Reading", 2) as advance, report_progress(console, "b") as report:
        advance()
        report(1, 2)
    assert output.getvalue() == "\n" * output.getvalue().count("\n")
