"""Runs to export, and what was exported of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_tasks.runs.run import Run
from tests.support.random_runs import LIGHT, random_run

SHARED_PYRAMID = """\
name: three_heads
data: {root: cells, train: [{annotations: train.json}], val: [{annotations: val.json}]}
backbone: {name: resnet10t, weights: none}
pyramid: {channels: 32}
heads:
  objects:
    type: faster_rcnn
    options: {box_head_channels: 32, rpn_pre_nms: [60, 60], rpn_post_nms: [40, 40]}
  scene: {type: fpn, background: true, options: {segmentation_channels: 64}}
  whole: {type: classifier, options: {pooling: max}}
training: {epochs: 1, batch_size: 2, learning_rate: 0.001, precision: fp32}
"""


@pytest.fixture(scope="session")
def cells(draw_cells: Callable[..., Path]) -> Path:
    """A data root with images of 96 x 128."""
    return draw_cells(train=4, val=3, size=(96, 128))


@pytest.fixture(scope="session")
def run(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`faster_rcnn` and `unet`."""
    return random_run(tmp_path_factory.mktemp("runs") / "two", cells, "quickstart", LIGHT)


@pytest.fixture(scope="session")
def three_heads(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`faster_rcnn`, `fpn` and `classifier` on a shared pyramid, images resized."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = folder / "three_heads.yaml"
    recipe.write_text(SHARED_PYRAMID)
    changes = ("data.resize={height: 64, width: 96}",)
    return random_run(folder / "three", cells, str(recipe), changes)
