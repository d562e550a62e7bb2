"""Several processes train the one model that a single process would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from resnet_tasks.errors import RunError
from resnet_tasks.runtime.processes import SINGLE_PROCESS, DistributedContext
from tests.support.paths import ROOT

SCRIPT = "tests.support.together"
TOLERANCE = 1e-5


def _start(count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = []
    for index in range(count):
        if count > 1:
            environment |= {
                "RANK": str(index),
                "LOCAL_RANK": str(index),
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", SCRIPT, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def _finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    ended = []
    for process in processes:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        ended.append((process.returncode, out, err))
    return ended


def _losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if line["event"] == "step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulation", "mode"),
    [(2, ""), *((1, mode) for mode in ("", "unfreeze", "patience", "uncertainty", "dwa"))],
)
def test_two_processes_give_the_losses_and_weights_of_one(
    accumulation: int, mode: str, tmp_path: Path
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    (single,) = _finish(_start(1, str(alone), str(accumulation), mode))
    assert single[0] == 0, single[2]
    pair = _finish(_start(2, str(together), str(accumulation), mode))
    assert [each[0] for each in pair] == [0, 0], pair
    assert pair[1][1] == "", "only the first process talks"

    expected, found = _losses(alone), _losses(together)
    steps = 3 if accumulation == 1 else 2
    assert len(expected) == len(found) == (3 if mode == "patience" else 7) * steps
    for step, (first, second) in enumerate(zip(expected, found, strict=True)):
        assert second == pytest.approx(first, abs=TOLERANCE), f"step {step}"
    for file in ("model.safetensors", "ema.safetensors"):
        weights = [load_file(run / "checkpoints/last" / file) for run in (alone, together)]
        for name, value in weights[0].items():
            torch.testing.assert_close(
                weights[1][name], value, atol=TOLERANCE, rtol=0, msg=f"{file}: {name}"
            )
    single_metrics, pair_metrics = (json.loads(each[0][1]) for each in ([single], pair))
    assert pair_metrics == pytest.approx(single_metrics, abs=1e-3)


def test_a_dying_process_ends_the_other_with_a_message(tmp_path: Path) -> None:
    started = time.monotonic()
    first, second = _finish(_start(2, str(tmp_path / "run"), "1", "die"))
    assert second[0] == -9
    assert first[0] == 1
    assert "told: process 0 of 2: another process of this run has ended" in first[2]
    assert time.monotonic() - started < 60
    assert (tmp_path / "run/checkpoints/last/model.safetensors").is_file()


def test_a_process_alone_decides_and_gathers_without_a_launcher() -> None:
    assert SINGLE_PROCESS.is_main
    assert SINGLE_PROCESS.run_on_main(lambda: 3) == 3
    assert SINGLE_PROCESS.all_gather("x") == ["x"]
    assert DistributedContext.start(torch.device("cpu")) == SINGLE_PROCESS


def test_other_failures_keep_their_own_words() -> None:
    with (
        pytest.raises(RuntimeError, match="connection to the moon"),
        SINGLE_PROCESS.translate_communication_errors(),
    ):
        raise RuntimeError("connection to the moon")
    pair = DistributedContext(index=0, count=2)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), pair.translate_communication_errors():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with (
        pytest.raises(RunError, match="process 0 of 2: another process"),
        pair.translate_communication_errors(),
    ):
        raise RuntimeError("[gloo] Connection closed by peer")
