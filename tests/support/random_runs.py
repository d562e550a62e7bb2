"""Run folders with random weights: what they see is nonsense, but it is theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import save_checkpoint
from resnet_tasks.runs.run import Run

LIGHT = (
    "backbone.name=resnet10t",
    "training.precision=fp32",
    "heads.objects.options={pyramid_channels: 32, rpn_pre_nms: [60, 60], rpn_post_nms: [40, 40]}",
    "heads.objects.options.box_head_channels=32",
    "heads.objects.options.detections_per_image=30",
    "heads.objects.options.score_threshold=0.2",
    "heads.scene.options={decoder_channels: [32, 16, 16, 16, 16]}",
)


def untrained_run(
    folder: Path,
    recipe: Recipe,
    categories: CategoryMap,
    *,
    seed: int = 0,
    change: Callable[[TaskModel], None] | None = None,
) -> Run:
    """A run of a recipe that ended before its first step.

    Args:
        folder: Where to.
        recipe: Of the run; weights that it names are not loaded.
        categories: Of its data.
        seed: Of the weights.
        change: What is done to them before they are kept.
    """
    labels = build_labels(recipe, categories)
    run = Run.create(folder, recipe, labels)
    torch.manual_seed(seed)
    model = build_model(recipe, labels, weights="unloaded")
    if change is not None:
        change(model)
    save_checkpoint(run.find_checkpoint(), model=model.state_dict())
    return run


def random_run(folder: Path, data_root: Path, recipe: str, changes: Sequence[str]) -> Run:
    """A run of a recipe whose predictors have weights large enough to say different things."""
    categories = read_coco(data_root / "cells/train.json").categories
    return untrained_run(
        folder, load_recipe(recipe, changes), categories, change=_say_different_things
    )


def _say_different_things(model: TaskModel) -> None:
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics that differ from those of no training
            assert layer.running_mean is not None
            nn.init.normal_(layer.running_mean, std=0.1)
        if name.endswith(("cls_score", "bbox_pred", "cls_logits", "classifier", "mask_fcn_logits")):
            for weight in layer.parameters():
                nn.init.normal_(weight, std=0.1)
