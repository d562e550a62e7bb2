"""Every reader of untrusted bytes, with inputs that atheris searches for."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz.targets.table import TARGETS
from tests.support.paths import ROOT

SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))
"""Time for all selected targets together, with the start of the server."""
OVERHEAD = 3
"""Seconds that a target takes besides the time that libFuzzer is told."""
SEED = int(os.environ.get("FUZZ_SEED", "1"))


class Server:
    """Process of `tests/fuzz/server.py`.

    Args:
        folder: Folder for its messages.
        num_targets: Number of targets that will be fuzzed, which share the time equally.
    """

    def __init__(self, folder: Path, num_targets: int) -> None:
        self._deadline = time.monotonic() + SECONDS
        self._remaining = num_targets
        self._log = folder / "server.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.server"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self._log.read_text()[-3000:]

    def fuzz(self, name: str, out: Path) -> int:
        """Fuzz a target, and return the exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        share = (self._deadline - time.monotonic()) / max(1, self._remaining)
        self._remaining -= 1
        seconds = max(1, round(share - OVERHEAD))
        job = {"name": name, "seconds": seconds, "seed": SEED, "out": str(out)}
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pytest.fail(self._log.read_text()[-3000:])
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text()[-3000:]
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip('atheris is not installed: pip install -e ".[fuzz]" (Linux on x86-64)')
    tests = [item for item in request.session.items if item.get_closest_marker("fuzz")]
    running = Server(tmp_path_factory.mktemp("server"), len(tests))
    yield running
    running.close()


@pytest.mark.slow
def test_every_target_has_a_corpus() -> None:
    folders = {folder.name for folder in (ROOT / "tests/fuzz/corpus").iterdir()}
    assert folders == TARGETS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_valid(name: str, tmp_path: Path) -> None:
    """Fuzzing starts behind the first check of a reader."""
    target = TARGETS[name]
    (tmp_path / "work").mkdir()
    read = target.prepare(tmp_path / "work")
    corpus = target.read_corpus()
    assert corpus
    for content in corpus.values():
        assert len(content) <= target.max_bytes
        read(content)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_readers_accept_or_reject_any_input(
    name: str, server: Server, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    status = server.fuzz(name, tmp_path)
    shutil.rmtree((tmp_path / "work").read_text(), ignore_errors=True)
    log = (tmp_path / "log.txt").read_text(errors="replace")
    findings = [
        f"{file.read_text()}\n{file.with_suffix('').read_bytes()[:2000]!r}"
        for file in sorted(tmp_path.glob("finding-*.txt"))
    ]
    if status:  # a hang, too much memory, or a crash of compiled code
        inputs = [file.read_bytes()[:2000] for file in tmp_path.glob("*-????????????????????*")]
        hang = (tmp_path / "hang.txt").read_text()
        findings.append(f"exit status {status}\n{log[-3000:]}\n{hang}\n{inputs}")
    runs = re.findall(r"number_of_executed_units: *(\d+)", log)
    tell(f"{name}: {int(runs[0]) if runs else 0:,} executions, {len(findings)} findings")
    assert not findings, f"{len(findings)} findings\n\n" + "\n\n".join(findings)
