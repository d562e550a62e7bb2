"""The measurement of sharing runs, and counts parameters exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.harness.measurement import read_rows
from benchmarks.harness.side_by_side import generate_street_batch
from benchmarks.multitask import (
    OBJECTS,
    MultitaskMeasurement,
    build_model,
    main,
    require_same_outputs,
)
from resnet_tasks.errors import DataError


@pytest.mark.slow
def test_a_tiny_measurement_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    content = main(["--quick", "--out", str(tmp_path / "numbers.json"), "--device", "cpu"])
    assert json.loads((tmp_path / "numbers.json").read_text()) == content
    assert [(each["objects"], each["work"]) for each in content["measured"]] == [
        (objects, work)
        for objects in ("faster_rcnn", "mask_rcnn")
        for work in ("forward", "training step")
    ]
    for by_backbone in content["parameters"].values():
        parameters = by_backbone["resnet10t"]
        together = parameters["boxes"] + parameters["pixels"] - parameters["backbone"]
        assert parameters["both"] == together
    of_boxes, of_masks = (content["parameters"][name]["resnet10t"] for name in OBJECTS)
    mask_parameters = 4 * (256 * 256 * 9 + 256) + (256 * 256 * 4 + 256) + 4 * (256 + 1)
    assert of_masks["both"] - of_boxes["both"] == mask_parameters
    assert [row.work.partition(" on one")[0] for row in read_rows(content)] == (
        ["boxes + pixels"] * 3 + ["boxes + masks + pixels"] * 3
    )
    for each in content["measured"]:
        assert each["seconds"].keys() == each["memory"].keys() == parameters.keys()
        assert all(value > 0 for value in (*each["seconds"].values(), *each["memory"].values()))
    assert all(row.agreement for row in read_rows(content) if row.unit == "s")


def test_heads_that_give_other_outputs_together_are_refused() -> None:
    heads = {"boxes": ("boxes",), "pixels": ("pixels",), "both": ("boxes", "pixels")}
    models = {
        name: build_model("resnet10t", "unet", each, pyramid=False).eval()
        for name, each in heads.items()
    }
    batch = generate_street_batch((64, 96), 1)
    assert "apart" in require_same_outputs(models, batch)
    made = models["pixels"].named_heads["pixels"]
    made.outputs = lambda raw, _: {"logits": raw["logits"] + 1}  # type: ignore[method-assign]
    with pytest.raises(DataError, match="pixels/logits of both"):
        require_same_outputs(models, batch)


def test_what_is_spared_is_told_in_backbones() -> None:
    seconds = {"boxes": 3.0, "pixels": 2.0, "both": 4.0, "backbone": 1.25}
    memory = {"boxes": 60, "pixels": 40, "both": 80, "backbone": 30}
    made = MultitaskMeasurement("resnet18", "faster_rcnn", "fp32", "forward", seconds, memory, {})
    assert made.ratio == pytest.approx(0.8)
    assert made.spared == pytest.approx(0.8)
    assert made.memory_ratio == pytest.approx(0.8)
