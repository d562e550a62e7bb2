"""Training step of a shipped recipe, on images of noise of its size."""

from __future__ import annotations

import re

import torch
from torch.utils.data import Dataset

from benchmarks.harness.side_by_side import BenchmarkPair, Work, generate_street_batch
from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.profiling.trial_steps import TrialTraining
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.shipped_recipes import find_recipe, read_header
from resnet_tasks.structures.samples import Batch, Sample


class _UnreadImages(Dataset[Sample]):
    """Dataset with as many images as a batch; they are never read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, _position: int) -> Sample:
        raise AssertionError("batches are handed over")


class RecipeStep:
    """Training step on one batch, with everything that `resnet-tasks finetune` does in a step.

    This includes the run's precision, deterministic algorithms, clipping, optimizer (with a
    learning rate of 0, so that every step is the same) and averaging. Weights are random. Stages
    that the recipe freezes are frozen.

    Attributes:
        size: (height, width) of the images in training, before padding.
        batch: Training batch.
        classes: Classes of the first head.
        metric: Metric of the recipe's model, as its header states it.

    Args:
        name: Name of a shipped recipe.
        categories: Number of categories of its data.
        device: Device of the training.
    """

    def __init__(self, name: str, categories: int, device: torch.device) -> None:
        recipe = load_recipe(name)
        category_map = CategoryMap(tuple(Category(i + 1, f"class {i}") for i in range(categories)))
        torch.manual_seed(0)
        model = build_model(recipe, build_labels(recipe, category_map), weights="unloaded")
        options = replace_settings(recipe.training, {"device": str(device)})
        self.work = TrialTraining(model, _UnreadImages(options.batch_size), options, workers=0)
        self.work.train_step.loss_module.train()
        self.name = name
        self.backbone = recipe.backbone.name
        self.size = _find_training_size(name)
        self.classes = next(iter(model.named_heads.values())).classes
        batch = generate_street_batch(
            self.size, options.batch_size, things=categories, surfaces=categories
        )
        self.batch: Batch = batch.to(device)
        self.metric = read_reported_metrics(name)

    def __call__(self) -> None:
        """Run one training step on the batch."""
        with self.work.train_step.make_deterministic():
            self.work.run_step([self.batch], 0.0)

    def pair_with(self, peer: str, theirs: Work, goal: float, memory_goal: float) -> BenchmarkPair:
        """Build the pair of this step and the peer's step on the same images, at its defaults."""
        height, width = self.size
        return BenchmarkPair(
            f"{self.name}, training step, {len(self.batch)} x {height}x{width}",
            "as it comes",
            f"{peer}'s defaults",
            self,
            theirs,
            goal,
            memory_goal,
            metric=self.metric,
        )


def _find_training_size(name: str) -> tuple[int, int]:
    """Find the size of a recipe's training images: that of its crop, else that of `data.resize`."""
    recipe = load_recipe(name)
    steps = recipe.augment if isinstance(recipe.augment, (list, tuple)) else ()
    for step in steps:
        for options in step.values():
            if isinstance(options, dict) and "size" in options:
                height, width = options["size"]
                return int(height), int(width)
    assert recipe.data.resize is not None, "recipes of benchmarks resize"
    return recipe.data.resize.height, recipe.data.resize.width


def read_reported_metrics(name: str) -> str:
    """Read the metrics that a recipe's header states as its result, after the recipe's name."""
    text = " ".join(" ".join(read_header(find_recipe(name))).split())
    result = text.partition("Result:")[2].strip()
    numbers = re.findall(r"\b(?:AP50|AP|mIoU|Dice of \w+|IoU) 0\.\d+", result)
    if not numbers:
        return f"{name}: not yet measured"
    start = "from scratch: " if result.startswith("from scratch") else ""
    return f"{name}: {start}{', '.join(dict.fromkeys(numbers[:2]))}"
