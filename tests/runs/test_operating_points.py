"""An operating point of a run: chosen, kept, used by predict, refused where it does not fit."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resnet_tasks.cli.app import app
from resnet_tasks.errors import RunError
from resnet_tasks.evaluation.protocols.froc import FrocOptions
from resnet_tasks.evaluation.protocols.operating_point import OperatingPoint, ThresholdRule
from resnet_tasks.runs.operating_points import (
    choose_operating_points,
    load_thresholds,
    select_extremes,
)
from resnet_tasks.runs.run import Run
from tests.support.light_run import trained_on_cells


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def run(data: Path) -> Run:
    return trained_on_cells(
        data,
        "evaluation.extra={objects: {froc: {hit: center}, kitti: null}, scene: {surface: null}}",
        "evaluation.resamples=20",
        train=4,
        val=12,
        size=(96, 96),
    )


def test_extra_evaluators_of_the_recipe_reach_the_files(run: Run) -> None:
    folder = run.directory / "evaluations" / "val"
    found = json.loads((folder / "metrics.json").read_text())
    for name in ("objects/CPM", "objects/KITTI_AP_hard", "scene/HD95", "objects/AP"):
        assert name in found["metrics"]
    assert found["metrics"]["scene/HD95"]["unit"] == "px"
    assert found["metrics"]["scene/HD95"]["lower_is_better"] is True
    assert found["metrics"]["scene/HD95"]["interval"] is not None
    assert "center lies inside" in found["protocol"]["objects"]
    assert "Outlines of" in found["protocol"]["scene"]
    details = json.loads((folder / "details.json").read_text())
    assert "confusion" in details["scene"]
    assert any(note.startswith("KITTI: ") for note in details["objects"]["notes"])


def test_chosen_thresholds_are_kept_and_filter_predictions(
    run: Run, data: Path, tmp_path: Path
) -> None:
    # Hits by center: a detector of one epoch finds hardly anything at IoU 0.5.
    options = FrocOptions(hit="center")
    points = choose_operating_points(
        run, ThresholdRule.parse("max-f1"), options=options, data_root=data
    )
    overall = points["objects"]["all"]
    assert overall is not None
    kept = json.loads((run.directory / "operating_point.json").read_text())
    assert kept["rule"] == "max F1"
    assert kept["hit"] == {"hit": "center", "iou": 0.5}
    assert kept["heads"]["objects"]["all"]["threshold"] == overall.threshold
    assert (kept["split"], kept["checkpoint"], kept["images"]) == ("val", "last", 12)
    assert len(kept["data"]) == 1
    thresholds = load_thresholds(run)
    assert len(thresholds["objects"]) == len(run.classes["objects"])
    images = [data / "cells" / "images" / "val"]
    folder = run.predict_paths(
        images, out=tmp_path / "out", thresholds=thresholds, console=Console(file=io.StringIO())
    )
    ids = run.category_ids["objects"]
    results = json.loads((folder / "objects.json").read_text())
    assert results
    assert all(
        each["score"] >= thresholds["objects"][ids.index(each["category_id"])] for each in results
    )


def test_other_weights_and_broken_files_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run.directory, copy)
    opened = Run.open(copy)
    (copy / "operating_point.json").unlink(missing_ok=True)
    with pytest.raises(RunError, match=r"does not exist; choose thresholds with `resnet-tasks op"):
        load_thresholds(opened)
    options = FrocOptions(hit="center")
    choose_operating_points(opened, ThresholdRule.parse("max-f1"), options=options, data_root=data)
    path = copy / "operating_point.json"
    changed = json.loads(path.read_text()) | {"weights": "0" * 64}
    path.write_text(json.dumps(changed))
    with pytest.raises(RunError, match=r"were chosen for other weights \(checkpoint last"):
        load_thresholds(opened)
    path.write_text("{}")
    with pytest.raises(RunError, match=r"is damaged \(missing key"):
        load_thresholds(opened)


def test_command_line(run: Run, data: Path) -> None:
    runner = CliRunner()
    root = ["--data-root", str(data)]
    made = runner.invoke(
        app, ["operating-point", str(run.directory), "--rule", "max-f1", "--hit", "center", *root]
    )
    assert made.exit_code == 0, made.output
    assert "max F1 on val" in made.output
    wrong = runner.invoke(app, ["operating-point", str(run.directory), "--rule", "best", *root])
    assert wrong.exit_code == 2
    image = str(next((data / "cells").rglob("*.jpg")))
    both = ["predict", str(run.directory), image, "--score", "0.5", "--operating-point"]
    assert runner.invoke(app, both).exit_code == 2


def test_of_many_classes_those_with_the_lowest_and_highest_f1_are_shown() -> None:
    def point(f1: float) -> OperatingPoint:
        return OperatingPoint(0.5, f1, f1, f1, 1.0, 7)

    points: dict[str, OperatingPoint | None] = {"all": point(0.5), "absent": None}
    points |= {f"class {i}": point(i / 1200) for i in range(1200)}
    shown = select_extremes(points)
    assert list(shown) == ["all", *(f"class {i}" for i in (*range(10), *range(1190, 1200)))]
    few = dict(list(points.items())[:21])
    assert select_extremes(few) == few
