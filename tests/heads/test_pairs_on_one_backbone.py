"""Two of the heads of other libraries on one backbone: every command works with both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from resnet_tasks.cli import app
from tests.support.decoder_heads import SMALL_DECODERS

pytestmark = pytest.mark.slow

DETECTORS: dict[str, dict[str, Any]] = {
    "fcos": {"pyramid_channels": 64, "num_convs": 1, "score_threshold": 0.0},
    "retinanet": {"pyramid_channels": 32, "num_convs": 1, "score_threshold": 0.0},
}
PAIRS = (
    ("fcos", "deeplabv3plus"),
    ("retinanet", "pspnet"),
    ("fcos", "retinanet"),
    ("pan", "linknet"),
    ("unetplusplus", "manet"),
    ("upernet", "segformer"),
    ("retinanet", "deeplabv3"),
)


def test_every_head_is_in_a_pair() -> None:
    assert {name for pair in PAIRS for name in pair} == {*DETECTORS, *SMALL_DECODERS}


def call(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}{result.exception}"
    return result.output


def describe_head(name: str) -> dict[str, Any]:
    if name in DETECTORS:
        return {"type": name, "options": DETECTORS[name]}
    options = {**SMALL_DECODERS[name], "auxiliary_level": "C4"}
    return {"type": name, "options": options, "background": True}


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_commands(pair: tuple[str, str], draw_cells: Callable[..., Path], tmp_path: Path) -> None:
    root = draw_cells(train=4, val=2, size=(96, 128))
    recipe = {
        "data": {
            "root": "cells",
            "train": [{"annotations": "train.json"}],
            "val": [{"annotations": "val.json"}],
        },
        "backbone": {"name": "resnet10t", "weights": "none"},
        "heads": {name: describe_head(name) for name in pair},
        "training": {
            "epochs": 2,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "precision": "bf16",
            "device": "cpu",
        },
    }
    path, run = root / "recipe.yaml", root / "run"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    printed = call("finetune", path, "--data-root", root, "--out", run)
    metrics = {name: f"{name}/{'AP' if name in DETECTORS else 'mIoU'}" for name in pair}
    assert all(metric in printed for metric in metrics.values())
    images = root / "cells" / "images" / "val"
    call("evaluate", run, "--data-root", root, "--tta", "flips")
    call("predict", run, images, "--out", tmp_path / "whole")
    call("predict", run, images, "--tiles", "64", "--out", tmp_path / "tiles")
    for name in pair:
        first = sorted(images.iterdir())[0]
        call("explain", run, first, "--head", name, "--out", tmp_path / name)
        (entry,) = json.loads((tmp_path / name / "explanations.json").read_text())
        assert (entry["head"], entry["level"]) == (name, "C5")
    printed = call("calibrate", run, "--data-root", root)
    heads = json.loads((run / "calibration.json").read_text())["heads"]
    # After two epochs, no box may be right.
    wrong = {name for name in pair if f"not calibrated: {name}: all 200 decisions" in printed}
    assert set(heads) == set(pair) - wrong
    call("evaluate", run, "--data-root", root, "--calibrated")
    call("report", run, "--data-root", root)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert all(metric in html for metric in metrics.values())
    assert "latency, ms" in call("compare", run, run, "--out", root / "c.html", "--size", "64x96")
