"""A conversion that is stopped, or whose disk is full, leaves nothing and says so in a sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from data_tools.writing.text_spool import TextSpool
from resnet_tasks.cli import app
from tests.support.tiny_sources import kitti

TABLES = ("sample_data", "sample", "log", "category", "attribute", "object_ann", "surface_ann")


@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (signal.SIGHUP, "SIGHUP")],
)
def test_a_conversion_that_is_stopped(number: int, name: str, tmp_path: Path) -> None:
    tables = tmp_path / "in/v1.0-train"
    tables.mkdir(parents=True)
    for table in TABLES:
        os.mkfifo(tables / f"{table}.json")  # nobody writes into it: reading takes for ever
    command = [sys.executable, "-m", "resnet_tasks", "data", "convert", "nuimages"]
    running = subprocess.Popen(
        [*command, tmp_path / "in", tmp_path / "out"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out@*.partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.poll() is None
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert " ".join(told.split()) == (
        f"stopped: by {name}; nothing was written to {tmp_path / 'out'}"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = kitti.write(tmp_path / "in")
    monkeypatch.setattr(TextSpool, "add", full)
    done = CliRunner().invoke(app, ["data", "convert", "kitti", str(source), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr == (
        "error: a file cannot be written (No space left on device); free disk space and run the "
        "command again\n"
    )
    assert [each.name for each in tmp_path.iterdir()] == ["in"]


def test_an_output_that_cannot_be_made(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    (tmp_path / "file").touch()
    target = str(tmp_path / "file/out")
    done = CliRunner().invoke(app, ["data", "convert", "kitti", str(source), target])
    assert done.exit_code == 2
    assert "file/out cannot be created (Not a directory); choose another" in done.stderr
