"""Processors that may be used."""

from __future__ import annotations

import os

import pytest

from resnet_tasks.runtime.cpu_count import count_usable_cores


def test_a_process_held_to_some_processors_counts_those(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert count_usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_usable_cores() == 1
