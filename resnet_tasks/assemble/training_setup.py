"""Model and training data for the start of a run, built without writing any file."""

from __future__ import annotations

from pathlib import Path

import torch

from resnet_tasks.assemble.datasets import build_dataset, build_training_samples
from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.measured_settings import fill_in_class_weights, fill_in_constants
from resnet_tasks.assemble.model import apply_normalization, build_model
from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.recipe import Recipe


def build_training_setup(
    recipe: Recipe, data_root: Path | None = None, *, measure: bool = True
) -> tuple[TaskModel, CocoDataset | TiledDataset]:
    """Build the model and the training data of a recipe.

    Args:
        recipe: Recipe to build.
        data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
        measure: Whether to measure the normalization constants and class weights that the recipe
            takes from the data, which reads all of it. Otherwise the constants of the weights are
            used and all classes have weight 1.

    Raises:
        ResnetTasksError: If recipe, data or weights are invalid.
    """
    files = {"train": read_split(recipe, "train", data_root)}
    files["val"] = read_split(recipe, "val", data_root)
    categories = merge_categories([*files["train"], *files["val"]])
    train = build_dataset(recipe, files["train"], categories, training=True)
    if not train.max_unreadable_images:
        for file in train.files:
            file.require_files()
            if "semantic" in train.fields:
                file.require_lossless_maps()
    torch.manual_seed(recipe.training.seed)
    labels = build_labels(recipe, categories)
    if not measure:
        return build_model(recipe, labels), build_training_samples(recipe, train)
    model = build_model(fill_in_class_weights(recipe, labels, train), labels)
    if recipe.data.normalize == "data":
        apply_normalization(model, fill_in_constants(recipe, train))
    return model, build_training_samples(recipe, train)
