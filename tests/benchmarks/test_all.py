"""`python -m benchmarks all`: what it runs, what it writes, and how it tells of failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import all as every
from benchmarks.harness.measurement import BenchmarkRow, add_rows
from resnet_tasks.errors import DataError

STEP = BenchmarkRow("step, bf16", "same precision", "peer 1.0", 0.5, 0.75, "s", 1.4)
COMES = BenchmarkRow("step, as shipped", "as it comes", "peer 1.0", 0.5, 2.0, "s", 4.5)
PLACE = {"hardware": {"cpu": "a chip", "cores": 2}, "date": "2026-01-02 03:04:05"}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names in the order in which they were run; `pipeline` fails without a report."""
    names: list[str] = []

    def run(name: str, folder: Path, *, is_quick: bool) -> int:
        names.append(name)
        if name == "pipeline":
            return 2
        rows = {"startup": [STEP], "loading": [COMES]}.get(name, [])
        (folder / f"{name}.json").write_text(json.dumps(add_rows(PLACE, rows)))
        return 0

    monkeypatch.setattr(every, "_run_benchmark", run)
    return names


def test_all_are_run_and_failures_named(
    ran: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"pipeline \(exit code 2\)"):
        every.main(["--out", str(tmp_path)])
    assert {"startup", "detector_step", "detector_inference", "segmentation_step"} <= set(ran)
    assert not set(ran) & every.EXCLUDED.keys()
    written = json.loads((tmp_path / "benchmarks.json").read_text())
    assert written["failed"] == {"pipeline": 2}
    assert set(written["measurements"]) == set(ran) - {"pipeline"}
    assert "| step, bf16 |" in capsys.readouterr().out


def test_kinds_are_never_mixed(ran: list[str], tmp_path: Path) -> None:
    every.main(["--only", "startup", "loading", "--out", str(tmp_path)])
    assert ran == ["startup", "loading"]
    text = (tmp_path / "benchmarks.md").read_text()
    same, comes = text.split("**As it comes")
    assert "| step, bf16 |" in same
    assert "as shipped" not in same
    assert "| step, as shipped |" in comes
    assert "Measured on a chip, 2 cores, 2026-01-02." in text


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no benchmark 'startpu'"):
        every.main(["--only", "startpu", "--out", str(tmp_path)])


def test_one_is_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    content = every.main(["--only", "startup", "--quick", "--out", str(tmp_path)])
    assert content["measurements"]["startup"]["quick"] is True
    assert (tmp_path / "benchmarks.md").read_text().startswith("--quick only shows")
