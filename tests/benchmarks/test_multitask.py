"""The measurement of sharing runs, and counts parameters exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.multitask import Measured, main


def test_a_tiny_measurement_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    content = main(["--quick", "--out", str(tmp_path / "numbers.json"), "--device", "cpu"])
    assert json.loads((tmp_path / "numbers.json").read_text()) == content
    assert [each["work"] for each in content["measured"]] == ["forward", "training step"]
    parameters = content["parameters"]["resnet10t"]
    together = parameters["boxes"] + parameters["pixels"] - parameters["backbone"]
    assert parameters["both"] == together
    for each in content["measured"]:
        assert each["seconds"].keys() == each["memory"].keys() == parameters.keys()
        assert all(value > 0 for value in (*each["seconds"].values(), *each["memory"].values()))


def test_what_is_spared_is_told_in_backbones() -> None:
    seconds = {"boxes": 3.0, "pixels": 2.0, "both": 4.0, "backbone": 1.25}
    memory = {"boxes": 60, "pixels": 40, "both": 80, "backbone": 30}
    made = Measured("resnet18", "fp32", "forward", seconds, memory)
    assert made.ratio == pytest.approx(0.8)
    assert made.spared == pytest.approx(0.8)
    assert made.memory_ratio == pytest.approx(0.8)
