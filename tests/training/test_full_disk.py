"""A disk that is full and folders that vanish: one sentence, and the last checkpoint stays."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.utils.data import Dataset

from data_tools.converters.synthetic import make_cells
from resnet_tasks.errors import RunError
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.run_folder import checkpoint
from resnet_tasks.run_folder.checkpoint import load_checkpoint
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.finetune import finetune
from resnet_tasks.training.finetune_recipe import finetune_recipe
from resnet_tasks.training.logging import run_log as journal
from resnet_tasks.training.logging import trackers
from tests.support.interrupting import before_update
from tests.support.killing import SETTINGS
from tests.support.namespaces import require_namespaces
from tests.support.paths import ROOT

Build = Callable[..., TaskModel]
OPTIONS = TrainingRecipe(
    epochs=1, batch_size=2, precision="fp32", device="cpu", checkpoint_minutes=1e-9
)


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.mark.parametrize("what", ["weights", "state", "log"])
def test_a_full_disk_ends_with_a_sentence_and_the_run_goes_on_later(
    tiny_model: Build,
    shapes: Dataset[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path / "whole", console=_quiet())

    with monkeypatch.context() as patch:
        owner, name = {
            "weights": (checkpoint, "save_file"),
            "state": (torch, "save"),
            "log": (journal, "_find_missing_newline"),
        }[what]
        harm = before_update(1, lambda _: patch.setattr(owner, name, _full))
        with harm, pytest.raises(RunError, match=r"cannot be written \(No space left on device\)"):
            finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path / "run", console=_quiet())
    assert load_checkpoint(tmp_path / "run/checkpoints/last")[2]["position"]["updates"] == 1

    finetune(
        tiny_model(), shapes, None, OPTIONS, out=tmp_path / "run", resume=True, console=_quiet()
    )
    one, other = (
        load_checkpoint(tmp_path / each / "checkpoints/last")[0] for each in ("whole", "run")
    )
    assert all(torch.equal(one[each], other[each]) for each in one)


def test_a_full_disk_costs_tensorboard_only_its_curves(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = _quiet()
    monkeypatch.setattr(trackers.SummaryWriter, "add_scalar", _full)
    finetune(tiny_model(), shapes, None, OPTIONS, out=tmp_path, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("warning: tensorboard failed and is disabled") == 1
    assert load_checkpoint(tmp_path / "checkpoints/last")[2]["position"]["epoch"] == 1


def test_a_run_folder_that_is_moved_is_not_made_anew(
    tiny_model: Build, shapes: Dataset[Sample], tmp_path: Path
) -> None:
    out, moved = tmp_path / "run", tmp_path / "moved"
    harm = before_update(1, lambda _: out.rename(moved))
    with (
        harm,
        pytest.raises(RunError, match=r"run(/log\.jsonl cannot be written| disappeared during)"),
    ):
        finetune(tiny_model(), shapes, None, OPTIONS, out=out, console=_quiet())
    assert not out.exists()
    assert load_checkpoint(moved / "checkpoints/last")[2]["position"]["updates"] == 1


def test_a_log_line_that_was_cut_off_spoils_no_other(tmp_path: Path) -> None:
    book = journal.RunLog(tmp_path, _quiet())
    book.log("start")
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"event": "st')
    book.log("end")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [line[:16] for line in lines] == [
        '{"event": "start',
        '{"event": "st',
        '{"event": "end",',
    ]


DISK = ("unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Words before a command whose mounts vanish with it; needs no root."""
COMMANDS_ON_DISK = """
set -u
mount -t tmpfs tmpfs {disk}
run() {{
    mount -t tmpfs -o remount,size=$1 tmpfs {disk}  # in full: the short form needs root
    shift
    "{python}" -m resnet_tasks finetune "$@" --data-root {data}
    echo "ended with $?"
}}
run {half} quickstart {settings} --out {disk}/run
run {one} quickstart {settings} --out {disk}/run
run {state} --resume {disk}/run
run {enough} --resume {disk}/run
cp -r {disk}/run/checkpoints {out}
"""


@pytest.mark.slow
def test_a_disk_that_is_full_and_grows_changes_no_weight(tmp_path: Path) -> None:
    """A real disk, on which there is no room at first for weights, then for the next checkpoint.

    The first checkpoint lacks the state of the optimizer, which is as large as the weights.
    """
    require_namespaces(DISK, "mount")
    make_cells(tmp_path / "cells", train=8, val=2, seed=5, size=(96, 96))
    recipe = load_recipe("quickstart", SETTINGS)
    finetune_recipe(recipe, out=tmp_path / "run", data_root=tmp_path, console=_quiet())
    expected = tmp_path / "run" / "checkpoints"
    weights = sum(file.stat().st_size for file in (expected / "best").iterdir())
    script = COMMANDS_ON_DISK.format(
        disk=tmp_path / "disk",
        python=sys.executable,
        data=tmp_path,
        settings=" ".join(SETTINGS),
        out=tmp_path / "checkpoints",
        half=weights // 2,
        one=3 * weights // 2,
        state=11 * weights // 4,
        enough=9 * weights,
    )
    (tmp_path / "disk").mkdir()
    process = subprocess.run(
        [*DISK, "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert process.returncode == 0, process.stderr
    assert re.findall(r"ended with \d+", process.stdout) == ["ended with 2"] * 3 + ["ended with 0"]
    last = tmp_path / "disk/run/checkpoints/last"
    lines = process.stderr.splitlines()
    assert len(lines) == 3, lines
    assert all(line.startswith(f"error: {last} cannot be written (") for line in lines)
    assert all("No space left on device" in line for line in lines)
    hint = "the previous checkpoint is kept: resume from it with --resume"
    assert [hint in line for line in lines] == [False, True, True]
    for file in ("last/model.safetensors", "last/ema.safetensors", "best/model.safetensors"):
        copy = tmp_path / "checkpoints" / file
        assert copy.read_bytes() == (expected / file).read_bytes(), file
