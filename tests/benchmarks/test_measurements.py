"""The door to the measurements: lists them, names them, and runs one."""

from __future__ import annotations

import importlib

import pytest

from benchmarks.__main__ import list_benchmarks, main


def test_every_measurement_says_what_it_shows_and_can_be_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, title in list_benchmarks().items():
        assert title
        assert name in shown
        assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_unknown_measurement_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["degredation"]) == 2
    assert "'degredation'" in capsys.readouterr().err
