"""The experiments: finished ones are skipped, a changed setting is run again, one runs for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness.experiments import trainings
from resnet_tasks.errors import RunError
from resnet_tasks.training.experiments.seeds import RepeatedRun
from tests.support.tiny_sources import bccd

ENTRY = {
    "metrics": {"AP": {"value": 0.5, "interval": None, "per_class": {}}},
    "training_seconds": 60.0,
}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Command that trains one experiment, with prepared data."""
    (tmp_path / "work" / "data" / "bccd").mkdir(parents=True)
    options = {
        "--work": tmp_path / "work",
        "--results": tmp_path / "results.json",
        "--weights": "none",
        "--only": "bccd_boxes/fcos",
    }
    return ["experiments", *(str(word) for pair in options.items() for word in pair)]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run folders that were trained, in order; nothing is trained."""
    names: list[str] = []

    def train(repeat: RepeatedRun, **_: Any) -> None:
        names.append(repeat.folder.name)

    monkeypatch.setattr(trainings, "complete_run", train)
    monkeypatch.setattr(
        trainings, "make_run_entry", lambda planned, _: {**ENTRY, "digest": planned.digest}
    )
    return names


def test_finished_experiments_are_skipped(
    words: list[str], trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--seeds", "0"]) == 0
    assert len(trained) == 1
    assert main([*words, "--seeds", "0", "1"]) == 0
    assert [name.rpartition("-")[0] for name in trained] == [
        "bccd_boxes-fcos-seed-0",
        "bccd_boxes-fcos-seed-1",
    ]
    shown = capsys.readouterr().out
    assert "1/2 bccd_boxes/fcos/seed-0: already measured" in shown
    assert "2 of 2 runs are measured" in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["runs"]) == ["bccd_boxes/fcos/seed-0", "bccd_boxes/fcos/seed-1"]


def test_changed_settings_are_run_again_in_another_folder(
    words: list[str], trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--seeds", "0"]) == 0
    assert main([*words, "--seeds", "0", "--epochs-share", "0.25"]) == 0
    assert len(set(trained)) == 2
    assert main([*words, "--seeds", "0", "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("measured with other settings")


def test_a_failure_does_not_prevent_the_next_experiment(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RunError("no disk")

    monkeypatch.setattr(trainings, "complete_run", fail)
    assert main([*words, "--seeds", "0", "1"]) == 2
    shown = capsys.readouterr()
    assert shown.out.count("failed: no disk") == 2
    assert "bccd_boxes/fcos/seed-0, bccd_boxes/fcos/seed-1" in shown.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--epochs-share", "0"], "--epochs-share is 0.0; it must be above 0, at most 1"),
        (["--epochs-share", "nan"], "--epochs-share is nan"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--seeds", "0", "-1"], "--seeds: -1 is not allowed"),
        (["--weights", "missing.safetensors"], "missing.safetensors do not exist; pass --weights"),
        (["--only", "camvid_boxes", "--data", "nowhere"], "nowhere/camvid does not exist; pass"),
    ],
)
def test_mistakes_are_reported(
    words: list[str], capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    assert main([*words, *changes]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_results_file_is_not_overwritten(
    words: list[str], trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text('{"rows": []}')
    assert main(words) == 2
    assert "is not a results file of format 1" in capsys.readouterr().err
    assert (trained, (tmp_path / "results.json").read_text()) == ([], '{"rows": []}')


@pytest.mark.slow
def test_an_experiment_runs_from_the_source_to_its_cost(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work" / "data" / "bccd").rmdir()
    bccd.write(tmp_path / "source" / "bccd")
    command = [*words, "--data", str(tmp_path / "source"), "--epochs-share", "0.01"]
    assert main([*command, "--measure", "--seeds", "0"]) == 2
    assert "bccd_boxes/fcos/seed-0 is not trained yet" in capsys.readouterr().err

    assert main([*command, "--seeds", "0"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    entry = results["runs"]["bccd_boxes/fcos/seed-0"]
    assert (entry["train_images"], entry["val_images"], entry["images_seen"]) == (2, 1, 2)
    assert set(entry["metrics"]["AP"]["per_class"]) == {"RBC", "WBC", "Platelets"}
    assert str(tmp_path) not in json.dumps(results)
    # Killed after the training and before the result was written.
    (tmp_path / "results.json").unlink()
    assert main([*command, "--seeds", "0"]) == 0
    assert "is already complete" in capsys.readouterr().out

    assert main([*command, "--seeds", "0", "--measure", "--repeats", "1"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    cost = results["costs"]["bccd_boxes/fcos"]
    assert cost["digest"] == entry["digest"]
    assert cost["parameters"] == entry["parameters"]
    assert min(cost["step_seconds"], cost["prediction_seconds"], cost["step_bytes"]) > 0
    assert main([*command, "--seeds", "0", "--measure"]) == 0
    assert "bccd_boxes: already measured" in capsys.readouterr().out
    assert main([*words, "--table"]) == 0
    assert "2 training images, 2 images seen (1 epoch)" in capsys.readouterr().out
