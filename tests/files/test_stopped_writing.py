"""`data split` and `data check --fix` that are stopped while they write leave nothing."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer

from resnet_tasks.cli.app import exit_cleanly_on_signal
from resnet_tasks.files.atomic import open_together, remove_files_on_error, replace_folder
from resnet_tasks.files.partial_paths import remove_path

WAITING = """
import os
import sys
import time

from resnet_tasks.__main__ import main

sync, calls = os.fsync, []


def wait(descriptor: int) -> None:
    calls.append(descriptor)
    sync(descriptor)
    if len(calls) == 2:
        print("waiting", flush=True)
        time.sleep(60)


os.fsync = wait
main()
"""
"""Command line that waits when its second file is written and has not yet taken its name."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A COCO file of two images."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in (1, 2)]
    content = {"info": {}, "images": images, "annotations": []}
    file = tmp_path / "all.json"
    file.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "cell"}]}))
    return file


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")],
)
@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["split", "all.json", "--fractions", "1,1", "--out", "out"], ["train.json", "val.json"]),
        (
            ["check", "all.json", "--fix", "out/fixed.json"],
            ["fixed.json", "fixed.json.changes.json"],
        ),
    ],
)
def test_nothing_is_left(
    command: list[str], names: list[str], number: int, name: str, data: Path
) -> None:
    root = data.parent
    (root / "out").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "data", *command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert "waiting\n" in running.stdout
        (partial,) = (root / "out").iterdir()
        assert partial.match(".files@*.partial")
        assert sorted(path.name for path in partial.iterdir()) == names
        running.send_signal(number)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    told_out = "out" if command[0] == "split" else "out/fixed.json"
    assert " ".join(told.split()) == f"stopped: by {name}; nothing was written to {told_out}"
    assert sorted(each.name for each in root.iterdir()) == ["all.json", "out"]
    assert list((root / "out").iterdir()) == []


CHECKED = ("atomic.py", "partial_paths.py", "contextlib.py")
"""Modules in which a signal arrives at every instruction."""


def write_folder(root: Path) -> None:
    """Write a folder with a file."""
    with replace_folder(root / "folder") as partial:
        (partial / "a").touch()


def write_set(root: Path) -> None:
    """Write two files that appear together."""
    paths = (root / "a", root / "b")
    with remove_files_on_error(paths), open_together(paths):
        pass


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a signal right after `open`
@pytest.mark.parametrize(
    ("write", "names"),
    [
        pytest.param(write_folder, ["folder"], id="folder"),
        pytest.param(write_set, ["a", "b"], id="set", marks=pytest.mark.slow),
    ],
)
def test_a_signal_at_any_moment(
    write: Callable[[Path], None], names: list[str], tmp_path: Path
) -> None:
    """A signal may also arrive between a folder's creation and the block that removes it."""
    num_before, num_instructions, exit_codes = 0, 0, set[int]()
    previous = sys.gettrace()

    def trace(frame: FrameType, _: str, __: object) -> Callable[..., Any] | None:
        nonlocal num_instructions
        if not frame.f_code.co_filename.endswith(CHECKED):
            return None
        frame.f_trace_opcodes = True
        num_instructions += 1
        if num_instructions == num_before + 1:
            signal.raise_signal(signal.SIGTERM)
        return trace

    is_stopped = True
    while is_stopped:
        num_instructions, is_stopped = 0, False
        try:
            with exit_cleanly_on_signal(tmp_path):
                sys.settrace(trace)
                write(tmp_path)
                sys.settrace(previous)
        except typer.Exit as stop:
            is_stopped = True
            exit_codes.add(stop.exit_code)
        finally:
            sys.settrace(previous)
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == names or (is_stopped and left == [])
        for path in tmp_path.iterdir():
            remove_path(path)
        num_before += 1
    gc.collect()  # while the warnings of unclosed files are ignored
    assert num_before > 200
    assert exit_codes == {128 + signal.SIGTERM}
