"""Runs that are killed at random moments end with the weights of one that was not."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from data_tools.converters.synthetic import make_cells
from tests.support.killing import Marks, kill_in, start, until_end

FILES = ("last/model.safetensors", "last/ema.safetensors", "best/model.safetensors")
KILLS = 20
PHASES = ("step", "evaluation", "checkpoint")


def _durations(marks: Marks, phase: str) -> list[float]:
    return [end - begin for (begin, name), (end, _) in pairwise(marks) if name == phase]


@pytest.mark.slow
def test_twenty_kills_change_no_weight(tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Inside steps, evaluation and writing; workers, averaging, augmentation, accumulation.

    Every run is killed twice, so that what is killed is a resumed run as often as a first one.
    """
    make_cells(tmp_path / "data" / "cells", train=12, val=8, seed=5, size=(96, 96))
    whole = tmp_path / "whole"
    process, marks = start(whole, tmp_path / "data")
    told = until_end(process, marks)
    assert process.exitcode == 0
    lengths = {phase: _durations(told, phase) for phase in PHASES}

    rng, fell = random.Random(7), Counter[str]()
    lines: list[str] = []
    for number in range(KILLS // 2):
        folder = tmp_path / f"run-{number}"
        for sitting in range(2):
            phase = PHASES[(2 * number + sitting) % 3]
            share = 2 + sitting  # so much is left for the second sitting in any case
            count = rng.randint(1, max(1, len(lengths[phase]) // share))
            usual = sorted(lengths[phase])[len(lengths[phase]) // 2]
            delay = 0.6 * usual * rng.random()  # the signal itself takes its time
            if sitting == 0 and phase == "checkpoint":
                count += 1  # in the first one of all there is nothing to go on from yet
            process, marks = start(folder, tmp_path / "data")
            where = kill_in(process, marks, phase, count, delay)
            assert where is not None, f"run {number} ended by itself: {process.exitcode}"
            assert process.exitcode == -signal.SIGKILL
            fell[where] += 1
            kept = sorted(each.name for each in (folder / "checkpoints").iterdir())
            line = (
                f"run {number}, sitting {sitting}: {phase} {count} + {delay * 1000:.0f} ms: "
                f"in {where}; checkpoints: {', '.join(kept)}"
            )
            lines.append(line)
            tell(line)
        process, marks = start(folder, tmp_path / "data")
        until_end(process, marks)
        assert process.exitcode == 0, lines[-2:]
        for name in FILES:
            one, other = (each / "checkpoints" / name for each in (whole, folder))
            assert one.read_bytes() == other.read_bytes(), (name, lines[-2:])
        shutil.rmtree(folder)
    tell(f"fell in: {dict(fell)}")
    assert all(fell[phase] for phase in PHASES)
