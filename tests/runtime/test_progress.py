"""Progress bar: one line of the console, on terminals only."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from resnet_tasks.runtime.progress import report_progress, track_progress


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    """Return a console of a terminal, and its output."""
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=width, color_system=None), output


def last_line(output: io.StringIO) -> str:
    """Return the line that the last update of the bar printed."""
    lines = re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", output.getvalue())
    return [line for line in lines if "left" in line][-1]


@pytest.mark.parametrize("number", [0, 1, 6, 20])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_extras_never_displace_amount_speed_and_time(width: int, number: int) -> None:
    console, output = terminal(width)
    extras = [f"objects_of_interest/term_{i} 0.123" for i in range(number)]
    with track_progress(console, "epoch 10/100", 5_000, time_label="left in run") as advance:
        advance(1205, "312 images/s loss 0.823", extras, 3_900.4)
    line = last_line(output)
    assert len(line) <= width
    essential = r"epoch 10/100 \S* *24% 1205/5000 1:05:00 left in run 312 images/s loss 0\.823"
    assert re.search(essential, line)
    shown = [text for text in extras if text in line]
    assert shown == extras[: len(shown)]
    assert len(shown) == min(number, {80: 0, 100: 0, 160: 2}[width])
    assert line.count("objects_of") == len(shown)  # no text is cut off


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_narrow_console_cuts_off_the_end_of_the_line(width: int) -> None:
    console, output = terminal(width)
    with track_progress(console, "epoch 1/9", 50, time_label="left") as advance:
        advance(5, "312 images/s loss 0.823 and a text that does not fit", ["never"], 60)
    lines = [line for line in re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", output.getvalue()) if line]
    full = "epoch 1/9  10% 5/50 0:01:00 left 312 images/s loss 0.823 and a text that does not fit"
    start = lines[-1][2:].rstrip().removesuffix("…")
    assert full.startswith(start)
    assert len(start) >= width - 4
    assert max(map(len, lines)) <= width


def test_a_long_label_leaves_room_for_the_bar() -> None:
    console, output = terminal()
    path = "Reading /home/user/projects/blood/data/annotations/instances_train.json"
    with track_progress(console, path, 1205) as advance:
        advance(100)
    line = last_line(output)
    assert re.search(r"Reading /hom…es_train.json \S+ +8% 100/1205 -:--:-- left", line)


def test_the_time_left_of_a_resumed_bar_is_that_of_its_own_steps() -> None:
    clock = [0.0]
    console, output = terminal()
    console.get_time = lambda: clock[0]  # type: ignore[method-assign]
    with track_progress(console, "Predicting", 1_000, completed=900) as advance:
        for _ in range(10):
            clock[0] += 2
            advance()
    assert "91% 910/1000 0:03:00 left" in last_line(output)


def test_steps_and_details() -> None:
    console, output = terminal()
    with track_progress(console, "Reading [1]", 4) as advance:
        advance()
        advance(detail="[fast]")
    line = last_line(output)
    assert re.search(r"Reading \[1\] .* 50% 2/4 \S+ left \[fast\]", line)


def test_hours_are_not_converted_to_days() -> None:
    console, output = terminal()
    with track_progress(console, "epoch 1/300", 9, time_label="left") as advance:
        advance(seconds_left=400_000)
    assert "111:06:40 left" in last_line(output)


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
