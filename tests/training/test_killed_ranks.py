"""Processes and hosts that die under torchrun: a message, an end, and the same weights later."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from data_tools.converters.synthetic import make_cells
from tests.support.killing import SETTINGS
from tests.support.namespaces import require_namespaces
from tests.support.paths import ROOT
from tests.support.two_hosts import NAMESPACES

FILES = ("last/model.safetensors", "last/ema.safetensors", "best/model.safetensors")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
COMMAND = ("-m", "tests.support.faulty_rank", "finetune")
MESSAGE = "another process of this run has ended or does not answer"
LIMIT = 240
"""Seconds after which a command is taken for hung."""
END_SECONDS = 60
"""Seconds from the death of a process to the end of the command."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")]


@contextmanager
def _start(command: list[str], fault: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command; at the end, kill what is left of it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment |= {"FAULT": fault} if fault else {}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for descendant in psutil.Process(process.pid).children(recursive=True):
                descendant.kill()
            process.kill()
        process.communicate()


def _execute(command: list[str], fault: str = "") -> tuple[int, str]:
    """Run a command to its end; return its exit code and what it prints."""
    with _start(command, fault) as process:
        printed, _ = process.communicate(timeout=LIMIT)
        return process.returncode, printed


def _two_processes(*arguments: str) -> list[str]:
    return [*TORCHRUN, "--standalone", "--nproc-per-node=2", *COMMAND, *arguments]


def _two_hosts(fault: str, *arguments: str) -> list[str]:
    meeting = ("--rdzv-backend=c10d", "--rdzv-endpoint=first:29500")
    command = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", *meeting, *COMMAND, *arguments]
    return [*NAMESPACES, sys.executable, "-m", "tests.support.two_hosts", fault, *command]


def _require_message(printed: str, process: int) -> None:
    """Require one message of one process, and no traceback of the package."""
    expected = f"process {process}: error: process {process} of 2: {MESSAGE}"
    assert printed.count(expected) == 1, printed
    assert "resnet_tasks/training" not in printed, printed


def _find_time(pattern: str, printed: str) -> float:
    match = re.search(pattern + r" (\d+\.\d+)", printed)
    assert match is not None, printed
    return float(match[1])


def _require_same_weights(run: Path, uninterrupted: Path) -> None:
    for file in FILES:
        weights, expected = (
            (folder / "checkpoints" / file).read_bytes() for folder in (run, uninterrupted)
        )
        assert weights == expected, file


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing happens to; its data is next to it."""
    folder = tmp_path_factory.mktemp("ranks")
    make_cells(folder / "cells", train=12, val=4, seed=5, size=(96, 96))
    code, printed = _execute(_two_processes(*_describe_run(folder / "run")))
    assert code == 0, printed
    return folder / "run"


def _describe_run(run: Path) -> tuple[str, ...]:
    data = "--data-root", str(run.parent)
    return ("quickstart", *SETTINGS, "--out", str(run), *data)


def test_killed_processes_end_the_run_which_resumes_to_the_same_weights(
    uninterrupted: Path,
) -> None:
    """SIGKILL in a step, in the evaluation and in front of a checkpoint; SIGTERM for the launcher.

    The launcher sends SIGTERM to the loader workers too.
    """
    run = uninterrupted.with_name("killed")
    resume = ("--resume", str(run), "--data-root", str(run.parent))
    arguments = _describe_run(run)
    faults = ("kill 1 step 2", "kill 0 checkpoint 2", "kill 1 evaluation 1")
    for fault in faults:
        code, printed = _execute(_two_processes(*arguments), fault)
        end = time.monotonic()
        assert code == 1, printed
        _require_message(printed, 1 - int(fault.split()[1]))
        assert "exitcode  : -9" in printed  # in the launcher's summary
        assert end - _find_time("FAULT", printed) < END_SECONDS
        arguments = resume

    with _start(_two_processes(*resume), "wait 0 step 1") as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if line.startswith("FAULT"):
                launcher.send_signal(signal.SIGTERM)
                break
        printed = launcher.stdout.read()
        assert launcher.wait(LIMIT) != 0
    assert "stopped: training was stopped after" in printed
    assert "DataLoader" not in printed, printed

    code, printed = _execute(_two_processes(*resume))
    assert code == 0, printed
    _require_same_weights(run, uninterrupted)


def test_two_hosts_train_like_one_and_end_if_the_other_dies(uninterrupted: Path) -> None:
    """One host is isolated from the network, then one is killed; then both train to the end."""
    require_namespaces(NAMESPACES, "ip", "mount", "hostname")
    run = uninterrupted.with_name("hosts")
    resume = ("--resume", str(run), "--data-root", str(run.parent))
    arguments = _describe_run(run)
    for fault in ("unplugged", "killed"):
        code, printed = _execute(_two_hosts(fault, *arguments), "wait 1 step 2")
        assert code == 0, printed  # of the hosts, not of what runs there
        _require_message(printed, 0)
        start, end = (_find_time(text, printed) for text in ("FAULT", "first ended with 1 at"))
        assert end - start < END_SECONDS
        arguments = resume

    code, printed = _execute(_two_hosts("none", *resume))
    assert code == 0, printed
    assert "first ended with 0" in printed
    assert "second ended with 0" in printed
    _require_same_weights(run, uninterrupted)
