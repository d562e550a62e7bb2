"""`data split` and `data check --fix` that are stopped while they write leave nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

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


@pytest.mark.parametrize("form", ["folder", pytest.param("set", marks=pytest.mark.slow)])
def test_a_signal_at_any_moment(form: str, tmp_path: Path) -> None:
    """A signal may also arrive between a folder's creation and the block that removes it."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.signal_sweep", form, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["instructions"] > 200
    assert found["exit_codes"] == [128 + signal.SIGTERM]
