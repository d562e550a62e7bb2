"""`benchmark`: a step of a small recipe, its parts, its operators, and what is said of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.data.datasets import coco_dataset
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.profiling.data_loading_cost import ReadingCost
from resnet_tasks.profiling.step_advice import suggest_changes
from resnet_tasks.profiling.step_profile import profile_recipe, summarize_parts
from resnet_tasks.profiling.timeline import BACKWARD, DATA, OPTIMIZER, OTHER
from resnet_tasks.recipe.load import load_recipe
from tests.support.half_bright import RIGHT_HALF, write_recipe, write_split


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Six images, half of each bright."""
    write_split(tmp_path / "a.json", dict.fromkeys("123456", RIGHT_HALF), size=(96, 128))
    return write_recipe(
        tmp_path / "mine.yaml",
        tmp_path,
        data={"resize": {"height": 48, "width": 64}},
        augment=[{"HorizontalFlip": {"p": 0.5}}],
        training={"ema": 0.9},
    )


def test_shares_are_of_all_steps_and_parts_come_in_their_order() -> None:
    steps = [
        {OTHER: 1.0, DATA: 2.0, "forward: a": 1.0},
        {OTHER: 1.0, "forward: a": 4.0, BACKWARD: 3.0},
        {OTHER: 4.0, DATA: 1.0, "forward: a": 2.0, BACKWARD: 1.0},
    ]
    parts = summarize_parts(steps)
    assert [(each.name, each.seconds, each.share) for each in parts] == [
        (DATA, 1.0, 0.15),
        ("forward: a", 2.0, 0.35),
        (BACKWARD, 1.0, 0.2),
        (OTHER, 1.0, 0.3),
    ]


def test_the_command_tells_parts_and_writes_them(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "numbers" / "step.json"
    command = ["benchmark", str(recipe), "--steps", "2", "--warm-up", "1", "--out", str(out)]
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    for text in ("Where the time of a step goes", "backbone C3", "scene decoder", "Operators by"):
        assert text in made.stdout
    found = json.loads(out.read_text())
    assert sum(each["share"] for each in found["parts"]) == pytest.approx(1.0)
    names = [each["name"] for each in found["parts"]]
    assert names[0] == DATA
    assert names[-1] == OTHER
    assert {BACKWARD, OPTIMIZER, "forward: scene losses"} <= set(names)
    assert sum(each["share"] for each in found["operators"]) <= 1.0 + 1e-9
    assert found["conditions"]["steps"] == 2
    assert found["conditions"]["image_size"] == [64, 64]
    assert found["memory"]["step"] > 0
    assert found["memory"]["process"] > 2**20
    assert found["reading"]["images"] == 6
    assert found["reading"]["stored_size"] == [96, 128]
    assert found["reading"]["from_memory"] < found["reading"]["whole"]
    assert isinstance(found["advice"], list)
    assert not any(tmp_path.glob("**/log.jsonl"))  # no run is left


def test_slow_data_is_told(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = coco_dataset.decode_stored_image

    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.25)
        return real(*arguments, **options)

    monkeypatch.setattr(coco_dataset, "decode_stored_image", slow)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    chosen = load_recipe(str(recipe), ["data.cache=false"])
    found = profile_recipe(chosen, steps=2, warm_up=1)
    assert found.sum_shares(DATA) > 0.5
    assert isinstance(found.reading, ReadingCost)
    assert found.reading.whole > 0.1
    assert any(
        "waiting for data takes" in each and "set data.workers=3" in each
        for each in suggest_changes(found, chosen)
    )


def test_an_fp32_operator_in_bf16_is_listed(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = UNet.pixel_features

    def with_island(self: UNet, features: Any) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            square = torch.rand(600, 600)
            for _ in range(4):
                square = square @ square / 600
        return plain(self, features) + 0.0 * square.mean()

    monkeypatch.setattr(UNet, "pixel_features", with_island)
    chosen = load_recipe(str(recipe), ["training.precision=bf16"])
    found = profile_recipe(chosen, steps=1, warm_up=1)
    (told,) = [each for each in suggest_changes(found, chosen) if "is spent in fp32" in each]
    assert "aten::mm (forward: scene losses" in told
    plain_run = profile_recipe(load_recipe(str(recipe), []), steps=1, warm_up=1)
    assert not any("is spent in fp32" in each for each in suggest_changes(plain_run, chosen))


def test_drawn_data_needs_none(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    command = [
        "benchmark", "quickstart", "--synthetic", "--steps", "1", "--warm-up", "1",
        "data.resize={height: 64, width: 96}", "training.batch_size=1", "training.device=cpu",
        "--data-root", str(tmp_path / "nowhere"), "--out", str(out),
    ]  # fmt: skip
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert "are random; the time to read files is not measured" in " ".join(made.stdout.split())
    found = json.loads(out.read_text())
    assert found["reading"] is None
    assert any(each["name"] == "forward: objects rpn.select_proposals" for each in found["parts"])
    assert not (tmp_path / "nowhere").exists()


def test_senseless_and_absent_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        made = CliRunner().invoke(app, ["benchmark", *arguments])
        assert made.exit_code == 2, made.output
        return " ".join(made.output.split())

    absent = ["medical/bccd_faster_rcnn_resnet18", "--data-root", str(tmp_path)]
    assert "does not exist" in refused(*absent)
    assert "is a folder; give a file" in refused("quickstart", "--out", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without a launcher" in refused("quickstart")
