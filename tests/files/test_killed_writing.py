"""Commands that are killed with SIGKILL at every step, and then run again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_sources import kitti

KILLED = """
import os
import signal
import sys

from resnet_tasks.__main__ import main

root, steps_left = sys.argv.pop(1), int(sys.argv.pop(1))


def count_step(event, arguments):
    global steps_left
    if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if isinstance(arguments[0], int) or not os.path.abspath(arguments[0]).startswith(root):
        return
    steps_left -= 1
    if steps_left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(count_step)
main()
"""
"""Command line that kills itself before one of the steps that change a folder."""
ALL_STEPS = 1_000_000


def run_and_kill(root: Path, step: int, command: list[str]) -> int:
    """Run a command in a folder that is killed before a step; return its exit status."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, root, str(step), *command],
        cwd=root,
        capture_output=True,
        check=False,
    ).returncode


def read_files(folder: Path, *, hidden: bool) -> dict[str, bytes]:
    """Return the files of a folder and its subfolders, with or without hidden files and folders."""
    files = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and (hidden or not any(part.startswith(".") for part in name.parts)):
            files[name.as_posix()] = path.read_bytes()
    return files


def write_coco(root: Path) -> None:
    """Write a COCO file of six images."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in range(1, 7)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    (root / "all.json").write_text(json.dumps(content))


def write_archive(root: Path) -> None:
    """Write an archive of a tiny KITTI dataset outside the folder whose steps are counted."""
    source = kitti.write(root / "in")
    with tarfile.open(root / "kitti.tar", "w") as archive:
        archive.add(source, "KITTI", filter=lambda entry: entry.replace(mtime=0, deep=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write_source", "command"),
    [
        (write_coco, ["split", "all.json", "--fractions", "3,2,1", "--out", "out"]),
        (write_coco, ["split", "all.json", "--folds", "3", "--out", "."]),
        (write_coco, ["check", "all.json", "--fix", "fixed.json"]),
        (write_archive, ["convert", "kitti", "in", "out", "val_fraction=0.5"]),
        (write_archive, ["convert", "kitti", "kitti.tar", "out", "val_fraction=0.5"]),
    ],
    ids=["split", "split-here", "fix", "convert", "convert-archive"],
)
def test_the_same_command_completes_the_result(
    write_source: Callable[[Path], None], command: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    steps = (ALL_STEPS, *range(6), *random.Random(0).sample(range(6, 60), 6))
    reference: dict[str, bytes] = {}
    expected_status, num_killed = 0, 0
    for step in steps:
        root.mkdir()
        write_source(root)
        status = run_and_kill(root, step, ["data", *command])
        if step == ALL_STEPS:
            reference, expected_status = read_files(root, hidden=True), status
            assert len(reference) > 2
        is_complete = read_files(root, hidden=False) == reference
        if status == -signal.SIGKILL and not is_complete:
            num_killed += 1
            assert run_and_kill(root, ALL_STEPS, ["data", *command]) == expected_status
            assert read_files(root, hidden=True) == reference
        else:
            assert status in (expected_status, -signal.SIGKILL)
            assert is_complete
        shutil.rmtree(root)
    assert num_killed >= 6
