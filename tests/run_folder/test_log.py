"""Events of a log: invalid lines are counted, unless one of them is needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.run_folder.log import find_first_start, read_events

START = {"event": "start", "weights": {"license": "mit"}}
STEP = {"event": "step", "update": 0, "epoch": 1, "losses": {"a/x": 1.0}}


def write_lines(folder: Path, *lines: Any) -> Path:
    path = folder / "log.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "step"',
        {"event": "step", "update": 1},
        {**STEP, "epoch": -1},
        {**STEP, "epoch": 10**400},
        {**STEP, "losses": [1]},
        {"event": "end", "seconds": float("inf")},
        {"event": "end", "seconds": float("nan")},
        {"event": 3},
    ],
)
def test_invalid_lines_are_counted(line: Any, tmp_path: Path) -> None:
    assert read_events(write_lines(tmp_path, START, STEP, line)) == ([START, STEP], 1)


def test_losses_of_earlier_versions_may_be_nan(tmp_path: Path) -> None:
    events, invalid = read_events(write_lines(tmp_path, {**STEP, "losses": {"a/x": float("nan")}}))
    assert (len(events), invalid) == (1, 0)


def test_the_license_is_not_lost_with_the_first_line(tmp_path: Path) -> None:
    assert find_first_start(write_lines(tmp_path, START, STEP)) == START
    assert find_first_start(write_lines(tmp_path, START, STEP, "x")) == START
    assert find_first_start(write_lines(tmp_path, STEP)) is None
    with pytest.raises(RunError, match=r"log\.jsonl is damaged \(no valid line `start` records"):
        find_first_start(write_lines(tmp_path, json.dumps(START)[:-9], STEP))
