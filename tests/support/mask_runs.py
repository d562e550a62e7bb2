"""Runs of Mask R-CNN with random weights, alone and with two more heads on one backbone."""

from __future__ import annotations

from pathlib import Path

from resnet_tasks.runs.run import Run
from tests.support.random_runs import random_run

_RPN = "rpn_pre_nms: [60, 60], rpn_post_nms: [40, 40], detections_per_image: 30"
_BOX = f"box_head_channels: 32, score_threshold: 0.2, {_RPN}"
_MASK = "mask_head_channels: [16], mask_predictor_channels: 16"
ALONE = f"""\
name: instances
data: {{root: cells, train: [{{annotations: train.json}}], val: [{{annotations: val.json}}]}}
backbone: {{name: resnet10t, weights: none}}
pyramid: {{channels: 32}}
heads:
  instances: {{type: mask_rcnn, options: {{{_BOX}, {_MASK}}}}}
training: {{epochs: 1, batch_size: 2, learning_rate: 0.001, precision: fp32, device: cpu}}
evaluation: {{resamples: 20, extra: {{instances: {{froc: {{hit: center}}}}}}}}
"""
TOGETHER = ALONE.replace(
    "training:",
    f"""\
  objects: {{type: faster_rcnn, options: {{{_BOX}}}}}
  scene: {{type: fpn, background: true, options: {{segmentation_channels: 64}}}}
training:""",
)


def mask_run(folder: Path, data_root: Path, recipe: str, *changes: str) -> Run:
    """A run with random weights on the cells of `data_root`.

    Args:
        folder: Folder of the run; the recipe is written next to it.
        data_root: Folder with `cells`.
        recipe: `ALONE` or `TOGETHER`.
        changes: Overrides of the recipe.
    """
    path = folder.with_suffix(".yaml")
    path.write_text(recipe)
    return random_run(folder, data_root, str(path), changes)
