"""Run folders with random weights: what they see is nonsense, but it is theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from resnet_tasks.assemble.labels import label_heads
from resnet_tasks.assemble.model import build_model
from resnet_tasks.data.coco import read_coco
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.training.checkpoint import save_checkpoint
from resnet_tasks.training.run import Run

LIGHT = (
    "backbone.name=resnet10t",
    "training.precision=fp32",
    "heads.objects.options={pyramid_channels: 32, rpn_pre_nms: [60, 60], rpn_post_nms: [40, 40]}",
    "heads.objects.options.box_head_channels=32",
    "heads.objects.options.detections_per_image=30",
    "heads.objects.options.score_threshold=0.2",
    "heads.scene.options={decoder_channels: [32, 16, 16, 16, 16]}",
)


def random_run(folder: Path, data_root: Path, recipe: str, changes: Sequence[str]) -> Run:
    """A run of a recipe whose predictors have weights large enough to say different things."""
    chosen = load_recipe(recipe, changes)
    categories = read_coco(data_root / "cells/train.json").categories
    labels = label_heads(chosen, categories)
    run = Run.create(folder, chosen, labels)
    torch.manual_seed(0)
    model = build_model(chosen, labels, weights="unloaded")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics that differ from those of no training
            assert layer.running_mean is not None
            nn.init.normal_(layer.running_mean, std=0.1)
        if name.endswith(("cls_score", "bbox_pred", "cls_logits", "classifier")):
            for weight in layer.parameters():
                nn.init.normal_(weight, std=0.1)
    save_checkpoint(folder / "checkpoints/last", model=model.state_dict())
    return run
