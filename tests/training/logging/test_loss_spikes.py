"""A loss that leaps is flagged; one that falls, wobbles or begins is not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from resnet_tasks.training.logging.loss_spikes import LossSpike, LossSpikeDetector
from resnet_tasks.training.logging.run_log import RunLog


def test_a_leap_is_flagged_with_its_deviations() -> None:
    watch = LossSpikeDetector()
    for i in range(20):
        assert watch.detect({"a/x": 1.0 if i % 2 else 3.0, "b/y": 5.0}) == []
    # Mean 2, sample deviation sqrt(20 / 19).
    (spike,) = watch.detect({"a/x": 12.0, "b/y": 5.0})
    assert (spike.term, spike.value, spike.mean) == ("a/x", 12.0, 2.0)
    assert spike.deviations == pytest.approx(10 / (20 / 19) ** 0.5)


def test_neither_falling_nor_constant_nor_early_losses_are_spikes() -> None:
    watch = LossSpikeDetector()
    assert watch.detect({"a": 1.0}) == []
    assert watch.detect({"a": 1000.0}) == []
    falling = LossSpikeDetector()
    assert not any(falling.detect({"a": 5.0 * 0.97**i}) for i in range(200))
    constant = LossSpikeDetector()
    assert not any(constant.detect({"a": 1.0 + 1e-3 * (i == 50)}) for i in range(60))


def test_the_console_hears_of_one_an_epoch_and_the_log_of_all(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=300)
    journal = RunLog(tmp_path, console)
    spike = LossSpike("a/x", 9.0, 1.0, 8.0)
    for update, epoch in ((3, 1), (4, 1), (8, 2)):
        journal.log_spike(update, epoch, spike, [7, "b"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(each["update"], each["image_ids"]) for each in lines] == [
        (3, [7, "b"]),
        (4, [7, "b"]),
        (8, [7, "b"]),
    ]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("jumped to 9") == 2
    assert "images: 7, b" in said
