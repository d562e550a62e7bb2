"""The model and the training data that a run of a recipe would begin with; nothing is written."""

from __future__ import annotations

from pathlib import Path

import torch

from resnet_tasks.assemble.datasets import build_dataset, training_samples
from resnet_tasks.assemble.labels import label_heads
from resnet_tasks.assemble.measured import with_class_weights, with_constants
from resnet_tasks.assemble.model import build_model, normalise
from resnet_tasks.assemble.splits import merged_categories, read_split
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.tiled import TiledDataset
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema import Recipe


def untrained(
    recipe: Recipe, data_root: Path | None = None, *, measured: bool = True
) -> tuple[TaskModel, CocoDataset | TiledDataset]:
    """The model and the training data of a recipe.

    Args:
        recipe: What to build.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.
        measured: Measure the constants and class weights that are to be those of the data, for
            which all of it is read; False: constants of the weights, all classes weigh 1.

    Raises:
        ResnetTasksError: If recipe, data or weights are wrong.
    """
    files = {"train": read_split(recipe, "train", data_root)}
    files["val"] = read_split(recipe, "val", data_root)
    categories = merged_categories([*files["train"], *files["val"]])
    train = build_dataset(recipe, files["train"], categories, training=True)
    if not train.most_bad_pictures:
        for file in train.files:
            file.require_files()
    torch.manual_seed(recipe.training.seed)
    labels = label_heads(recipe, categories)
    if not measured:
        return build_model(recipe, labels), training_samples(recipe, train)
    model = build_model(with_class_weights(recipe, labels, train), labels)
    if recipe.data.normalize == "data":
        normalise(model, with_constants(recipe, train))
    return model, training_samples(recipe, train)
