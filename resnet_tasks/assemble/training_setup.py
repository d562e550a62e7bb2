"""Components of a training run, built from a recipe without writing any file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch

from resnet_tasks.assemble.annotation_coverage import require_annotations, require_valid_labels
from resnet_tasks.assemble.datasets import build_dataset, build_training_samples
from resnet_tasks.assemble.extend_run import BaseRun
from resnet_tasks.assemble.labels import Labels, build_labels, create_placeholder_categories
from resnet_tasks.assemble.leak_check import require_no_leaks
from resnet_tasks.assemble.measured_settings import (
    measure_class_weights,
    measure_normalization,
)
from resnet_tasks.assemble.model import (
    apply_normalization,
    build_model,
    get_backbone_shape,
    select_unloaded_weights,
)
from resnet_tasks.assemble.recipe_problems import list_all_problems, require_best_metric
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.assemble.setup_notes import (
    describe_bit_depths,
    describe_dataset,
    describe_folds,
    describe_model,
    describe_other_classes,
    describe_unmeasured,
    require_images,
)
from resnet_tasks.assemble.split_files import (
    has_training_files,
    merge_categories,
    read_training_files,
)
from resnet_tasks.assemble.synthetic_samples import SyntheticSamples, build_synthetic_samples
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.processes import SINGLE_PROCESS, DistributedContext

Purpose = Literal["train", "trial", "synthetic", "check"]
"""Purpose of a set-up: `train`, a run or a learning-rate sweep; `trial`, steps that are only
measured; `synthetic`, a trial with generated data and random weights; `check`, a check that the
recipe is valid."""


@dataclass(frozen=True)
class TrainingSetup:
    """Components of a training run.

    Attributes:
        recipe: Resolved recipe: it includes the digest of the folds, the heads of the extended run
            and, for `train`, the measured class weights and normalization constants.
        labels: Categories of the data and classes of every head.
        model: Model with its initial weights.
        samples: Training samples: whole images, tiles of them, or generated samples.
        val: Validation images, or generated samples.
    """

    recipe: Recipe
    labels: Labels
    model: TaskModel
    samples: CocoDataset | TiledDataset | SyntheticSamples
    val: CocoDataset | SyntheticSamples

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe,
        *,
        purpose: Purpose = "train",
        data_root: Path | None = None,
        resume: RunDirectory | None = None,
        processes: DistributedContext = SINGLE_PROCESS,
        console: Console | None = None,
    ) -> Self:
        """Build the data, the labels and the model of a recipe, and check that they fit together.

        Args:
            recipe: Recipe to build.
            purpose: `train`; `trial`: nothing is measured on the data, and the normalization
                constants of the pretrained weights and class weights of 1 replace measured values;
                `synthetic`: a trial on generated samples with random weights; `check`: weights are
                not loaded and data may be absent.
            data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.
            resume: Run to resume, whose weights the caller loads; None: a new training.
            processes: Process group; the main process measures for all.
            console: Console for notes and progress; None: nothing is printed.

        Raises:
            ResnetTasksError: If the recipe, the data or the weights are invalid; the problems of
                all parts of the recipe are listed together.
        """
        is_absent = purpose == "check" and not has_training_files(recipe, data_root)
        if purpose == "synthetic" or is_absent:
            return cls.without_data(recipe, create_placeholder_categories(recipe))
        console = console or Console(quiet=True)
        show = partial(_print_notes, console)
        recipe, train_files, val_files = read_training_files(recipe, data_root)
        categories = merge_categories([*train_files, *val_files])
        base = BaseRun.from_recipe(recipe, resume)
        if base is not None:
            recipe, categories = base.extend_recipe(recipe, categories)
        leaks = require_no_leaks(recipe, train_files, val_files, data_root)

        with list_all_problems(recipe, categories):
            labels = build_labels(recipe, categories)
            train = build_dataset(recipe, train_files, categories, training=True)
            val = build_dataset(recipe, val_files, categories)
            show(describe_folds(recipe))
            for split, dataset in (("train", train), ("val", val)):
                show(describe_dataset(split, dataset))
                show(require_images(split, dataset))
            show(describe_bit_depths((train, val)))
            show(describe_other_classes(train))
            samples = build_training_samples(recipe, train)
            if isinstance(samples, TiledDataset):
                show([f"train: {samples.describe()}"])
            show([*leaks, *require_annotations(recipe, labels, train, val)])
            if purpose == "train":
                recipe = measure_class_weights(recipe, labels, train, processes, console)

            model = _build_initial_model(recipe, labels, base, resume, purpose)
            show(describe_model(model, processes.count))
            require_valid_labels(model, (train, val))
            require_best_metric(recipe, labels, model)
            # Last, because it reads all images: every other mistake should be reported first.
            if purpose == "train" and recipe.data.normalize == "data":
                recipe = measure_normalization(recipe, train, processes, console)
                apply_normalization(model, recipe)
            show(describe_unmeasured(recipe))
        return cls(recipe, labels, model, samples, val)

    @classmethod
    def without_data(cls, recipe: Recipe, categories: CategoryMap) -> Self:
        """Build a recipe with generated samples and random weights.

        Args:
            recipe: Recipe to build.
            categories: Categories of its data, or placeholders.

        Raises:
            ResnetTasksError: If the recipe is invalid; lists the problems of all parts.
        """
        with list_all_problems(recipe, categories):
            Augmentation(recipe.augment, recipe.data.channels)
            labels = build_labels(recipe, categories)
            torch.manual_seed(recipe.training.seed)
            model = build_model(recipe, labels, weights=select_unloaded_weights(recipe))
            require_best_metric(recipe, labels, model)
        samples = build_synthetic_samples(recipe, labels, model)
        return cls(recipe, labels, model, samples, samples)

    def list_files(self) -> dict[str, tuple[CocoFile, ...]]:
        """Return split -> annotation files; empty for generated samples."""
        train = self.samples.images if isinstance(self.samples, TiledDataset) else self.samples
        splits = {"train": train, "val": self.val}
        return {
            split: dataset.files
            for split, dataset in splits.items()
            if isinstance(dataset, CocoDataset)
        }

    def describe(self) -> str:
        """Return the name, backbone, heads and number of parameters, in one sentence."""
        recipe = self.recipe
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
        source = (
            "placeholder categories, because its data is absent"
            if isinstance(self.val, SyntheticSamples)
            else f"{Count(len(self.labels.categories)):category} of its data"
        )
        shape = get_backbone_shape(recipe.backbone)
        return f"{recipe.name}: {shape} with {heads}, {millions:.1f} M parameters, {source}"


def check_recipe(recipe: Recipe, data_root: Path | None = None) -> str:
    """Build all parts of a recipe without loading weights, and return a one-sentence summary.

    Without its data the recipe is built with placeholder categories.

    Raises:
        ResnetTasksError: If `finetune` would fail before its first step.
    """
    return TrainingSetup.from_recipe(recipe, purpose="check", data_root=data_root).describe()


def check_before_data(recipe: Recipe, categories: CategoryMap) -> None:
    """Build the model of a recipe whose data does not exist yet, with its weights.

    Args:
        recipe: Recipe to check.
        categories: Categories that the data will have.

    Raises:
        ResnetTasksError: If `finetune` would refuse the recipe on any data with these categories.
    """
    base = BaseRun.from_recipe(recipe, resume=None)
    if base is not None:
        recipe, categories = base.extend_recipe(recipe, categories)
    labels = TrainingSetup.without_data(recipe, categories).labels
    if base is None and select_unloaded_weights(recipe) != "none":
        build_model(recipe, labels)


def _build_initial_model(
    recipe: Recipe,
    labels: Labels,
    base: BaseRun | None,
    resume: RunDirectory | None,
    purpose: Purpose,
) -> TaskModel:
    """Build the model with the weights that its training starts from.

    A resumed run gets its weights later, from its checkpoint.
    """
    torch.manual_seed(recipe.training.seed)  # initial weights of the parts without pretraining
    if purpose == "check":
        return build_model(recipe, labels, weights=select_unloaded_weights(recipe))
    model = build_model(recipe, labels, weights="unloaded" if resume or base else None)
    if base is not None and resume is None:
        base.load_weights_into(model, labels)
    return model


def _print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(note, highlight=False, markup=False)
