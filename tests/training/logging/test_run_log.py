"""Progress of training on the console, and the losses in the log."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from resnet_tasks.training.logging.run_log import RunLog
from resnet_tasks.training.state.loss_reduction import StepLosses


def open_log(folder: Path, width: int = 80) -> tuple[RunLog, io.StringIO]:
    """Return the log of a run with a terminal, and the output of the terminal."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=width, color_system=None)
    return RunLog(folder, console), output


def last_line(output: io.StringIO) -> str:
    """Return the last line of the progress bar."""
    lines = re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", output.getvalue())
    return [line for line in lines if "left" in line][-1]


def make_losses(*values: float, head: str = "cells") -> StepLosses:
    """Return the losses of one head with a term per value."""
    terms = {f"{head}/term_{number}": value for number, value in enumerate(values)}
    return StepLosses(terms, {head: sum(values)})


@pytest.mark.parametrize("number", [1, 6, 20])
@pytest.mark.parametrize("head", ["cells", "nuclei_of_interest_in_the_second_channel"])
def test_80_columns_show_step_speed_time_and_total_loss(
    tmp_path: Path, number: int, head: str
) -> None:
    run_log, output = open_log(tmp_path)
    with run_log.show_progress("epoch 2/10", 11, 26) as show:
        show(make_losses(*[0.25] * number, head=head), 31.24, 312.0)
    total = f"{0.25 * number:#.3g}"
    assert re.search(
        rf"epoch 2/10 \S* +46% 12/26 0:05:12 left in run 31\.2 images/s loss {total}",
        last_line(output),
    )
    assert head not in output.getvalue()


def test_terms_are_shown_where_there_is_room(tmp_path: Path) -> None:
    run_log, output = open_log(tmp_path, width=130)
    with run_log.show_progress("epoch 2/10", 0, 26) as show:
        show(make_losses(0.5, 0.25), 312.4, None)
    assert (
        last_line(output)
        .rstrip()
        .endswith(
            "4% 1/26 -:--:-- left in run 312 images/s loss 0.750  "
            "cells/term_0 0.500  cells/term_1 0.250"
        )
    )


def test_a_skipped_step_keeps_the_last_loss_and_epochs_continue_the_average(
    tmp_path: Path,
) -> None:
    run_log, output = open_log(tmp_path)
    with run_log.show_progress("epoch 1/2", 0, 3) as show:
        show(StepLosses(), 10.0, None)
        assert "loss" not in last_line(output)
        show(make_losses(2.0), 10.0, None)
        show(StepLosses(), 10.0, None)
    assert "3/3 -:--:-- left in run 10.0 images/s loss 2.00" in last_line(output)
    with run_log.show_progress("epoch 2/2", 0, 3) as show:
        show(make_losses(1.0), 20.0, None)
    assert "1/3 -:--:-- left in run 11.0 images/s loss 1.90" in last_line(output)


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.0, "0.00"), (1e-5, "1.00e-05"), (123.4, "123"), (12345.6, "12346"), (3e7, "3.00e+07")],
)
def test_losses_of_any_size_fit(tmp_path: Path, loss: float, text: str) -> None:
    run_log, output = open_log(tmp_path)
    with run_log.show_progress("epoch 2/10", 0, 26) as show:
        show(make_losses(loss), 3.0, 0.0)
    assert last_line(output).rstrip().endswith(f"3.00 images/s loss {text}")


def test_the_log_has_the_total_of_weighted_heads(tmp_path: Path) -> None:
    run_log, _ = open_log(tmp_path)
    losses = StepLosses({"a/x": 1.0, "a/y": 2.0, "b/z": 4.0}, {"a": 3.0, "b": 0.4})
    run_log.log_step(7, 2, losses, 1e-3)
    line = json.loads((tmp_path / "log.jsonl").read_text())
    assert line["loss"] == pytest.approx(3.4)
    assert line["losses"] == {"a/x": 1.0, "a/y": 2.0, "b/z": 4.0}
