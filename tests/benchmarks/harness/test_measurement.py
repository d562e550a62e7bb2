"""Rows of the table, goals in both directions, fresh processes, and what travels with numbers."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.harness.measurement import (
    QUICK,
    REPEATS,
    BenchmarkRow,
    add_rows,
    collect_environment,
    finish_report,
    format_markdown_table,
    format_quantity,
    make_option_parser,
    read_rows,
    run_in_fresh_process,
    time_process,
)
from resnet_tasks.errors import DataError

STEP = BenchmarkRow(
    "step, fp32", "same precision", "peer 1.0", 0.5, 0.75, "s", 1.4, "losses to 1e-4"
)
MEMORY = BenchmarkRow("step: memory", "as it comes", "peer 1.0", 80e6, 100e6, "bytes", 0.85)
LIMIT = BenchmarkRow("help", "alone", "", 0.25, None, "s", 0.3)


def test_goals_are_least_times_of_seconds_and_greatest_shares_of_bytes() -> None:
    assert (STEP.ratio, STEP.is_reached) == (1.5, True)
    assert BenchmarkRow("", "alone", "", 0.5, 0.65, "s", 1.4).is_reached is False
    assert (MEMORY.ratio, MEMORY.is_reached) == (0.8, True)
    assert BenchmarkRow("", "alone", "", 90e6, 100e6, "bytes", 0.85).is_reached is False
    assert (LIMIT.ratio, LIMIT.is_reached) == (None, True)
    assert BenchmarkRow("", "alone", "", 0.31, None, "s", 0.3).is_reached is False
    assert BenchmarkRow("", "alone", "", 0.31, 1.0, "s").is_reached is None


def test_table_names_what_was_missed() -> None:
    missed = BenchmarkRow("w", "alone", "", 0.31, None, "s", 0.3)
    lines = format_markdown_table([STEP, MEMORY, missed]).splitlines()
    assert lines[2] == (
        "| step, fp32 | same precision | peer 1.0 | 500.0 ms | 750.0 ms | 1.50x | >= 1.4x | "
        "losses to 1e-4 |"
    )
    assert "| 80.0 MB | 100 MB | 0.80x | <= 0.85x |" in lines[3]
    assert "<= 300.0 ms (missed)" in lines[4]
    assert (format_quantity(12.3456, "s"), format_quantity(2.5e9, "bytes")) == (
        "12.35 s",
        "2.50 GB",
    )


def test_rows_come_back_from_a_report() -> None:
    report = json.loads(json.dumps(add_rows({"a": 1}, [STEP, MEMORY, LIMIT])))
    assert read_rows(report) == [STEP, MEMORY, LIMIT]
    assert read_rows({}) == []


def test_fresh_processes_are_timed_and_their_failures_told() -> None:
    made = time_process("found = [sys.argv[1], 'torch' in sys.modules]", "word")
    assert made["found"] == ["word", False]
    assert 0 < made["seconds"] < 60
    assert made["bytes"] > 1e6
    with pytest.raises(DataError, match="ZeroDivisionError"):
        run_in_fresh_process("1 / 0")
    with pytest.raises(DataError, match="exit code 3"):
        run_in_fresh_process("raise SystemExit(3)")


def test_machine_and_versions_travel_with_numbers() -> None:
    found = collect_environment("numpy", "no-such-package")
    assert found["versions"]["no-such-package"] == "not installed"
    assert set(found["versions"]) == {"resnet-tasks", "numpy", "no-such-package"}
    assert found["python"] == sys.version.split()[0]
    assert found["hardware"]["cpu"]


def test_report_is_written_and_tiny_runs_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    made = finish_report({"a": 1}, [STEP], Namespace(out=out, quick=True), summary="told")
    assert json.loads(out.read_text()) == made == {"a": 1, "rows": [STEP.to_json()], "quick": True}
    printed = capsys.readouterr().out
    assert printed.startswith(f"told\n{QUICK}")
    finish_report({"a": 1}, [STEP], Namespace(out=None, quick=False))
    assert capsys.readouterr().out == f"{format_markdown_table([STEP])}\n"


def test_fewer_runs_than_count_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    options = make_option_parser("x", "about").parse_args([])
    for repeats in (REPEATS - 1, REPEATS):
        finish_report({}, [STEP], Namespace(**vars(options), repeats=repeats))
    assert capsys.readouterr().out.count("medians of 6 runs; numbers to quote need 7 runs") == 1
