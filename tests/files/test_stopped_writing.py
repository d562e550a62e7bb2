"""`data split` and `data check --fix` that are stopped while they write leave nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LONG = "x" * 300_000
"""More than a pipe holds, so that who writes it waits for the reader."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A COCO file of two images that takes long to write."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in (1, 2)]
    content = {"info": {"note": LONG}, "images": images, "annotations": []}
    file = tmp_path / "all.json"
    file.write_text(json.dumps({**content, "categories": [{"id": 1, "name": "cell"}]}))
    return file


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")],
)
@pytest.mark.parametrize(
    ("command", "partial"),
    [
        # Both have a whole file behind them when they wait: train.json, and the list of changes.
        (["split", "all.json", "--fractions", "1,1", "--out", "out"], "out/val.json.partial"),
        (["check", "all.json", "--fix", "out/fixed.json"], "out/fixed.json.partial"),
    ],
)
def test_nothing_is_left(
    command: list[str], partial: str, number: int, name: str, data: Path
) -> None:
    root = data.parent
    (root / "out").mkdir()
    os.mkfifo(root / partial)  # takes what a pipe holds, then nothing
    reader = os.open(root / partial, os.O_RDONLY | os.O_NONBLOCK)
    running = subprocess.Popen(
        [sys.executable, "-m", "resnet_tasks", "data", *command],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with os.fdopen(reader, "rb") as pipe:
        assert select.select([pipe], [], [], 60)[0]
        assert running.poll() is None
        running.send_signal(number)
        os.set_blocking(reader, True)
        assert len(pipe.read()) > 0  # to its end, as the file is closed before it is taken away
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    told_out = "out" if command[0] == "split" else "out/fixed.json"
    assert " ".join(told.split()) == f"stopped: by {name}; nothing was written to {told_out}"
    assert sorted(each.name for each in root.iterdir()) == ["all.json", "out"]
    assert list((root / "out").iterdir()) == []
