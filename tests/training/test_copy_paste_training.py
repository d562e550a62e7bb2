"""Objects pasted in a whole run: the same for any number of workers and processes, and resumed."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.interrupting import killed_at
from tests.support.pasting import SETTINGS, Drawn
from tests.support.paths import ROOT

SCRIPT = "tests.support.pasting"
IMAGES = 5


@pytest.fixture(scope="module")
def data(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=IMAGES, val=2, size=(96, 96))


def trained(data: Path, out: Path, workers: int, processes: int = 1) -> Drawn:
    """What all processes of a run were given."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for index in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(index), "LOCAL_RANK": str(index)}
            environment |= {key: str(processes) for key in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", SCRIPT, str(data), str(out), str(workers)]
        running.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    for process in running:
        _, told = process.communicate(timeout=240)
        assert process.returncode == 0, told
    parts = [json.loads((out / f"{index}.json").read_text()) for index in range(processes)]
    seen: Drawn = {}
    for key, value in (item for part in parts for item in part.items()):
        # Where there are too few images for all processes, one is given another's, unannotated.
        pixels, boxes, seed = value
        known = seen.setdefault(key, [pixels, boxes, seed])
        known[1] = boxes if known[1] is None else known[1]
        assert (known[0], known[2]) == (pixels, seed)
        assert boxes in (None, known[1])
    return seen


def weights(out: Path) -> bytes:
    return (out / "run/checkpoints/last/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Drawn]:
    out = tmp_path_factory.mktemp("runs") / "alone"
    return out, trained(data, out, workers=0)


@pytest.mark.slow
def test_workers_change_nothing(alone: tuple[Path, Drawn], data: Path, tmp_path: Path) -> None:
    out, seen = alone
    assert len(seen) == 2 * IMAGES
    assert trained(data, tmp_path / "two", workers=2) == seen
    assert weights(tmp_path / "two") == weights(out)
    train = json.loads((data / "cells/train.json").read_text())
    objects = {image["id"]: 0 for image in train["images"]}
    for each in train["annotations"]:
        objects[each["image_id"]] += 1
    more = [len(boxes) - objects[int(key.split()[1])] for key, (_, boxes, _) in seen.items()]  # type: ignore[misc, arg-type]
    assert sum(number > 0 for number in more) > IMAGES  # something was pasted


@pytest.mark.slow
def test_two_processes_draw_what_one_does(
    alone: tuple[Path, Drawn], data: Path, tmp_path: Path
) -> None:
    _, seen = alone
    by_image: dict[str, list[Any]] = {}
    together: dict[str, list[Any]] = {}
    both = trained(data, tmp_path / "both", workers=0, processes=2)
    # A step of two processes takes as many images as two of one.
    for found, groups in ((seen, by_image), (both, together)):
        for key in sorted(found, key=lambda each: int(each.split()[0])):
            groups.setdefault(key.split()[1], []).append(found[key])
    assert together == by_image


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(
    alone: tuple[Path, Drawn], data: Path, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=200)
    run = tmp_path / "run"
    with killed_at(4):
        finetune_recipe(
            load_recipe("quickstart", (*SETTINGS, "data.workers=0")),
            out=run,
            data_root=data,
            console=console,
        )
    again = load_recipe(run / "recipe.yaml")
    finetune_recipe(again, resume=run, data_root=data, console=console)
    assert weights(tmp_path) == weights(alone[0])
