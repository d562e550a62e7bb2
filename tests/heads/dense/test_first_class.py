"""Trained FCOS and RetinaNet: they learn a few images, and every command works with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import resnet_tasks
from resnet_tasks.cli import app

pytestmark = pytest.mark.slow

SMALL = {
    "pyramid_channels": 64,
    "num_convs": 2,
    "score_threshold": 0.01,  # calibration needs many detections
    "detections_per_image": 40,
}
ANCHORS = {"anchor_sizes": [[16, 20], [32, 40], [64, 80], [128, 160], [256, 320]]}
HEADS: dict[str, dict[str, Any]] = {
    "fcos": {"type": "fcos", "options": SMALL},
    "retinanet": {"type": "retinanet", "options": {**SMALL, **ANCHORS}},
    "retinanet_v2": {
        "type": "retinanet",
        "options": {
            **SMALL,
            **ANCHORS,
            "tower_norm": "group",
            "extra_levels": "convolved_c5",
            "box_loss": "giou",
        },
    },
}


@dataclass(frozen=True)
class Trained:
    """Two runs of a head on the same four images, which are evaluated too.

    Attributes:
        root: Folder with data and runs.
        run: Run that learned the images.
        other: Run with one epoch.
    """

    root: Path
    run: Path
    other: Path


def call(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}{result.exception}"
    return result.output


def read_value(run: Path, metric: str, evaluation: str = "val") -> float:
    metrics = json.loads((run / "evaluations" / evaluation / "metrics.json").read_text())
    return float(metrics["metrics"][metric]["value"])


@pytest.fixture(scope="module", params=HEADS)
def trained(request: pytest.FixtureRequest, draw_cells: Callable[..., Path]) -> Trained:
    root = draw_cells(train=4, val=1, size=(96, 128))
    runs = []
    for seed, epochs in enumerate((45, 1)):
        recipe = {
            "data": {
                "root": "cells",
                "train": [{"annotations": "train.json"}],
                "val": [{"annotations": "train.json"}],
                "allow_leaks": True,
            },
            "backbone": {"name": "resnet10t", "weights": "none"},
            "heads": {"cells": HEADS[request.param]},
            "training": {
                "epochs": epochs,
                "batch_size": 4,
                "learning_rate": 2e-3,
                "precision": "bf16",
                "device": "cpu",
                "evaluate_every": 0,
                "seed": seed,
            },
        }
        path = root / f"recipe{seed}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        runs.append(root / f"run{seed}")
        assert "cells/AP" in call("finetune", path, "--data-root", root, "--out", runs[-1])
    return Trained(root, *runs)


def test_it_learns_the_images(trained: Trained) -> None:
    assert read_value(trained.run, "cells/AP50") > 0.9
    assert read_value(trained.other, "cells/AP50") < 0.5


def test_views_windows_and_explanations(trained: Trained, tmp_path: Path) -> None:
    call("evaluate", trained.run, "--data-root", trained.root, "--tta", "flips")
    assert read_value(trained.run, "cells/AP50", "val-flips") > 0.5  # flips are not learned
    images = trained.root / "cells" / "images" / "train"
    call("predict", trained.run, images, "--tiles", "96", "--out", tmp_path / "tiles")
    assert json.loads((tmp_path / "tiles" / "cells.json").read_text())
    call("explain", trained.run, sorted(images.iterdir())[0], "--out", tmp_path / "explained")
    (entry,) = json.loads((tmp_path / "explained" / "explanations.json").read_text())
    assert entry["level"] == "C5"
    assert entry["score"] > 0.2


def test_calibration_report_and_comparison(trained: Trained) -> None:
    call("calibrate", trained.run, "--data-root", trained.root)
    assert json.loads((trained.run / "calibration.json").read_text())["heads"]["cells"]
    call("evaluate", trained.run, "--data-root", trained.root, "--calibrated")
    call("report", trained.run, "--data-root", trained.root)
    assert "AP50" in (trained.run / "report.html").read_text(encoding="utf-8")
    out = trained.root / "comparison.html"
    printed = call("compare", trained.run, trained.other, "--out", out, "--size", "64x96")
    assert "latency, ms" in printed
    run = resnet_tasks.load(trained.run)
    assert run.evaluate("val", data_root=trained.root).metrics["cells/AP50"].value > 0.9
