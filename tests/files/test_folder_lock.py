"""One training at a time in a run folder, and none that is dead keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.files.folder_lock import lock_folder

HOLDS = """
import sys, os, time
from pathlib import Path
from resnet_tasks.files.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    child = os.fork()  # as a loader process, which outlives the run for a while
    if child == 0:
        time.sleep(2)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder):
        with (
            pytest.raises(RunError, match=rf"run is in use by process {os.getpid()} on \S+ since"),
            lock_folder(folder),
        ):
            pass
        # Who was refused has not let go of it for the other.
        with pytest.raises(RunError, match="is in use by"), lock_folder(folder):
            pass
    with lock_folder(folder):
        pass


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    """Also while a child of it still lives."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", HOLDS, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=f"process {process.pid} on"), lock_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        with lock_folder(tmp_path):
            pass


def test_a_folder_that_goes_meanwhile_is_no_error_of_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lock_folder(folder):
        folder.rename(tmp_path / "moved")
