"""Measurements against peers run in tiny, check agreement, and refuse what does not agree."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import pipeline
from benchmarks.harness import dense_detectors, detectors, mask_detectors
from benchmarks.harness import segmenters as pixels
from benchmarks.harness.measurement import read_rows
from benchmarks.harness.shipped_recipes import read_reported_metrics
from benchmarks.harness.side_by_side import (
    BenchmarkPair,
    compare_pairs,
    generate_street_batch,
    measure_medians,
    measure_peaks,
    require_close,
)
from benchmarks.harness.time_by_part import format_parts, measure_parts
from resnet_tasks.errors import DataError

CPU = torch.device("cpu")


def test_outputs_must_agree() -> None:
    theirs = torch.tensor([3.0, -4.0])
    ours = torch.tensor([3.05, -4.0])
    assert require_close("x", ours, theirs, 0.02) == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(DataError, match=r"x: the relative difference .* 0\.01, more than"):
        require_close("x", ours, theirs, 0.005)
    with pytest.raises(DataError, match="is nan, more than"):
        require_close("x", theirs * float("nan"), theirs, 0.5)
    with pytest.raises(DataError, match=r"ours is \(1,\), the peer's \(2,\)"):
        require_close("x", theirs[:1], theirs, 0.5)


def test_the_two_of_a_pair_take_turns() -> None:
    order: list[str] = []
    pair = BenchmarkPair(
        "w", "same precision", "p", lambda: order.append("o"), lambda: order.append("t"), 1
    )
    rows, runs = compare_pairs([pair], CPU, 3)
    assert order == ["o", "t"] * 5  # two warm-ups
    assert [len(each) for each in runs["w; same precision"].values()] == [3, 3]
    assert [row.unit for row in rows] == ["s"]


def test_cpu_seconds_do_not_count_waiting() -> None:
    works = {"waiting": lambda: time.sleep(0.02), "work": lambda: torch.ones(2)}
    assert measure_medians(works, CPU, 3)[0]["waiting"] >= 0.02
    assert measure_medians(works, CPU, 3, "cpu")[0]["waiting"] < 0.01
    with pytest.raises(DataError, match=r"--clock cpu counts .* the device is cuda; use --clock"):
        measure_medians(works, torch.device("cuda"), 3, "cpu")


def test_detectors_that_differ_are_refused() -> None:
    batch = generate_street_batch((64, 96), 2)
    ours = detectors.build_our_detector("resnet18", batch)
    theirs = detectors.build_peer_detector("resnet18", ours, _skip_resize=True)
    told = detectors.require_same_losses(ours, theirs, batch, "fp32")
    assert "apart" in told
    assert "apart" in detectors.require_same_stages(ours, theirs, batch, "bf16")
    plain = detectors.build_peer_detector("resnet18", ours, min_size=64, max_size=96).eval()
    mine = detectors.make_our_forward(ours.eval(), batch, "fp32")
    yours = detectors.make_peer_forward(plain, batch, "fp32")
    assert "100%" in detectors.require_same_detections(mine, yours)
    ours.train()
    with torch.no_grad():
        theirs.rpn.head.cls_logits.bias += 1
        plain.roi_heads.box_predictor.cls_score.bias[2] += 2
    with pytest.raises(DataError, match="losses in fp32"):
        detectors.require_same_losses(ours, theirs, batch, "fp32")
    with pytest.raises(DataError, match="objectness in bf16"):
        detectors.require_same_stages(ours, theirs, batch, "bf16")
    with pytest.raises(DataError, match="of the peer's"):
        detectors.require_same_detections(mine, yours)


@pytest.mark.slow
@pytest.mark.parametrize("name", dense_detectors.DETECTORS)
def test_dense_detectors_that_differ_are_refused(name: str) -> None:
    batch = generate_street_batch((64, 96), 2)
    ours = dense_detectors.build_our_detector("resnet18", batch, name)
    theirs = dense_detectors.build_peer_detector("resnet18", ours, _skip_resize=True)
    number = 3 if name == "fcos" else 2
    told = dense_detectors.require_same_losses(ours, theirs, batch, "fp32")
    assert told.startswith(f"the {number} losses")
    assert "apart" in dense_detectors.require_same_stages(ours, theirs, batch, "bf16")
    plain = dense_detectors.build_peer_detector("resnet18", ours, min_size=64, max_size=96).eval()
    mine = detectors.make_our_forward(ours.eval(), batch, "fp32")
    yours = detectors.make_peer_forward(plain, batch, "fp32")
    assert "detections among ours" in dense_detectors.require_same_detections(mine, yours)
    sides = [(mine, dense_detectors.list_parts(ours)), (yours, dense_detectors.list_parts(plain))]
    for parts in measure_parts(sides, CPU, 1):
        assert list(parts) == ["backbone", "pyramid", "towers", "rest"]
        assert all(seconds > 0 for seconds in parts.values())
    ours.train()
    with torch.no_grad():
        for model in (theirs, plain):
            model.head.classification_head.cls_logits.bias += 2
    with pytest.raises(DataError, match="losses in fp32"):
        dense_detectors.require_same_losses(ours, theirs, batch, "fp32")
    with pytest.raises(DataError, match="class logits in bf16"):
        dense_detectors.require_same_stages(ours, theirs, batch, "bf16")
    with pytest.raises(DataError, match="of the peer's"):
        dense_detectors.require_same_detections(mine, yours)


def test_the_time_of_parts_and_of_the_rest() -> None:
    outer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    other = torch.nn.Linear(2, 2)
    order = []

    def work() -> None:
        outer(torch.ones(1, 2))
        time.sleep(0.02)
        order.append("ours")

    def peer_work() -> None:
        other(torch.ones(1, 2))
        order.append("theirs")

    sides = [(work, {"all": outer, "first": outer[0]}), (peer_work, {"all": other})]
    seconds, peer_seconds = measure_parts(sides, CPU, 3)
    assert order == ["ours", "theirs"] * 4  # one warm-up
    assert list(seconds) == ["all", "first", "rest"]
    assert list(peer_seconds) == ["all", "rest"]
    assert seconds["rest"] >= 0.02
    assert all(value > 0 for value in seconds.values())
    assert not outer._forward_hooks
    # A thread that sleeps uses no CPU.
    (cpu_seconds,) = measure_parts(sides[:1], CPU, 3, "cpu")
    assert cpu_seconds["rest"] < 0.01
    told = format_parts({"a": 0.5, "rest": 2.0}, {"a": 1.0, "rest": 3.0})
    assert told == "a 500.0 ms, peer's 1.00 s (2.00x); rest 2.00 s, peer's 3.00 s (1.50x)"


@pytest.mark.slow
def test_mask_detectors_that_differ_are_refused() -> None:
    batch = generate_street_batch((64, 96), 2, has_masks=True)
    ours = detectors.build_our_detector("resnet18", batch, "mask_rcnn")
    theirs = detectors.build_peer_detector("resnet18", ours, _skip_resize=True)
    told = detectors.require_same_losses(ours, theirs, batch, "fp32")
    assert told.startswith("the 5 losses")
    told = detectors.require_same_stages(ours, theirs, batch, "bf16")
    assert told.startswith("pyramid, objectness, class logits and mask logits at most")
    plain = detectors.build_peer_detector("resnet18", ours, min_size=64, max_size=96).eval()
    ours.eval()
    assert "masks" in mask_detectors.require_same_grids(ours, plain, batch)
    pasted = detectors.make_our_forward(ours, batch, "fp32")()
    assert isinstance(pasted, list)
    assert all(len(each.segmentations) == len(each.boxes) > 0 for each in pasted)
    with torch.no_grad():
        for model in (theirs, plain):
            model.roi_heads.mask_predictor.mask_fcn_logits.bias += 1
    with pytest.raises(DataError, match="masks in fp32"):
        mask_detectors.require_same_grids(ours, plain, batch)
    ours.train()
    with pytest.raises(DataError, match="losses in fp32"):
        detectors.require_same_losses(ours, theirs, batch, "fp32")
    with pytest.raises(DataError, match="mask logits in bf16"):
        detectors.require_same_stages(ours, theirs, batch, "bf16")


def test_masks_of_street_batches_are_ellipses_in_their_boxes() -> None:
    batch = generate_street_batch((64, 96), 2, has_masks=True)
    plain = generate_street_batch((64, 96), 2)
    assert torch.equal(batch.images, plain.images)
    stacks = [each["masks"] for each in detectors.to_peer_targets(batch)]
    assert "masks" not in detectors.to_peer_targets(plain)[0]
    for target, stack in zip(batch.targets, stacks, strict=True):
        assert target.boxes is not None
        assert target.masks is not None
        assert stack.shape == (8, 64, 96)
        x1, y1, x2, y2 = target.boxes.unbind(dim=1)
        area = torch.pi / 4 * (x2 - x1) * (y2 - y1)
        assert torch.allclose(stack.sum(dim=(1, 2)).float(), area, rtol=0.05)
        found = target.masks.compute_boxes()
        assert float((found - target.boxes).abs().max()) <= 1.5


def test_objects_of_street_batches_have_the_requested_sides() -> None:
    batch = generate_street_batch((64, 96), 1, object_sides=(4, 200))
    boxes = batch.targets[0].boxes
    assert boxes is not None
    sides = boxes[:, 2:] - boxes[:, :2]
    assert torch.allclose(sides[[0, -1]], torch.tensor([[4.0, 4.0], [64.0, 64.0]]), rtol=1e-4)
    assert torch.allclose(sides[1:] / sides[:-1], torch.tensor(16 ** (1 / 7)), rtol=1e-3)
    assert float(boxes.min()) >= 0
    assert float((boxes[:, 2:] - torch.tensor([96.0, 64.0])).max()) <= 1e-4


def test_memory_counts_tensors_and_arrays() -> None:
    peaks = measure_peaks(
        {
            "tensor": lambda: torch.zeros(1_000_000),
            "array": lambda: np.zeros(1_000_000, np.float32),
            "both": lambda: (torch.zeros(1_000_000), np.zeros(1_000_000, np.float32)),
        },
        CPU,
    )
    assert peaks["tensor"] == pytest.approx(4e6, rel=0.05)
    assert peaks["array"] == pytest.approx(4e6, rel=0.05)
    assert peaks["both"] == pytest.approx(8e6, rel=0.05)


@pytest.mark.parametrize("architecture", ["unet", "fpn"])
def test_the_peer_has_as_many_classes(architecture: str) -> None:
    ours = pixels.build_our_net(architecture, "resnet18", ("background", "nucleus"))
    theirs = pixels.build_peer_net(architecture, "resnet18", ours).eval()
    assert theirs(torch.zeros(1, 3, 32, 64)).shape == (1, 2, 32, 64)


@pytest.mark.parametrize(
    "architecture",
    [
        name if name in ("unet", "fpn") else pytest.param(name, marks=pytest.mark.slow)
        for name in pixels.ARCHITECTURES
    ],
)
def test_nets_that_differ_are_refused(architecture: str) -> None:
    batch = generate_street_batch((128, 160), 2)
    ours = pixels.build_our_net(architecture, "resnet18").eval()
    theirs = pixels.build_peer_net(architecture, "resnet18", ours).eval()
    assert "apart" in pixels.require_same_logits(ours, theirs, batch, "fp32")
    with torch.no_grad():
        theirs.segmentation_head[0].bias += 1  # type: ignore[index,operator]
    with pytest.raises(DataError, match="logits in fp32"):
        pixels.require_same_logits(ours, theirs, batch, "fp32")


def test_pipelines_make_the_same_images() -> None:
    report = pipeline.main(["--quick"])
    assert [row.kind for row in read_rows(report)] == ["same precision"] * 6
    assert all("pixels" in row.agreement for row in read_rows(report))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("detector_step", 23),
        ("detector_inference", 20),
        ("segmentation_step", 41),
        ("segmentation_inference", 33),
    ],
)
def test_tiny_measurements_run(name: str, rows: int) -> None:
    report: dict[str, Any] = importlib.import_module(f"benchmarks.{name}").main(
        ["--quick", "--device", "cpu"]
    )
    found = read_rows(report)
    assert len(found) == rows
    assert {row.kind for row in found} == {"same precision", "as it comes"}
    assert all(row.ours > 0 and row.theirs and row.theirs > 0 for row in found)
    assert all(row.agreement for row in found if row.kind == "same precision" and row.unit == "s")


@pytest.mark.slow
def test_tiny_exports_run(tmp_path: Path) -> None:
    """In a process of its own, as tests of exports are."""
    for package in ("onnx", "openvino", "nncf"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks", "exported_inference", "--quick", "--out"]
    made = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    found = read_rows(json.loads(out.read_text()))
    assert [row.goal for row in found] == [5.0, 1.3, 5.5, 1.3]
    assert {row.kind for row in found} == {"as it comes"}
    assert "detections among ours" in found[0].agreement
    assert "logits" in found[2].agreement


def test_results_are_quoted_from_the_recipes() -> None:
    assert read_reported_metrics("medical/bccd_faster_rcnn_resnet18").endswith(
        "AP 0.6053, AP50 0.9190"
    )
    assert "from scratch: Dice of nuclei 0." in read_reported_metrics(
        "medical/dsb2018_unet_resnet34"
    )
    assert read_reported_metrics("driving/kitti_faster_rcnn_resnet50").endswith("not yet measured")
