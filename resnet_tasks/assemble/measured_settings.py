"""Settings that are measured on the training data and replace placeholders in the recipe."""

from __future__ import annotations

from resnet_tasks.assemble.heads import get_head_class, get_head_task
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.rare_classes import (
    NAMED_WEIGHTS,
    ClassCounts,
    compute_class_weights,
)
from resnet_tasks.data.statistics.class_counts import format_extremes, has_many_classes
from resnet_tasks.data.statistics.measure import count_classes, measure_channels
from resnet_tasks.errors import RecipeError
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.runtime.progress import track_progress


def measure_normalization(
    recipe: Recipe, train: CocoDataset, processes: DistributedContext, console: Console
) -> Recipe:
    """Replace `data.normalize: data` by the mean and standard deviation of the training data.

    Args:
        recipe: Recipe whose normalization is replaced; all other settings are kept.
        train: Training split; all of its images are read.
        processes: Process group; the main process measures for all.
        console: Console for progress and the measured constants.

    Raises:
        DataError: If an image cannot be read, or a channel is constant.
    """
    with track_progress(console, "Measuring channels", len(train)) as advance:
        mean, std = processes.run_on_main(lambda: measure_channels(train, lambda *_: advance()))
    text = ", ".join(
        f"{name} {' '.join(f'{value:.4f}' for value in values)}"
        for name, values in (("mean", mean), ("std", std))
    )
    console.print(f"normalize: {text}, from {Count(len(train)):training image}", highlight=False)
    return replace_settings(recipe, {"data.normalize": NormalizeRecipe(mean=mean, std=std)})


def measure_class_weights(
    recipe: Recipe,
    labels: Labels,
    train: CocoDataset,
    processes: DistributedContext,
    console: Console,
) -> Recipe:
    """Replace the name of a class weighting method by weights measured on the training data.

    Args:
        recipe: Recipe whose class weights are replaced; all other settings are kept.
        labels: Classes of the recipe's heads.
        train: Training split; the label maps of semantic heads are read.
        processes: Process group; the main process counts for all.
        console: Console for progress and the measured weights.

    Raises:
        DataError: If a label map cannot be read.
        RecipeError: If the name of a method is unknown.
    """
    methods = find_measured_weights(recipe)
    if not methods:
        return recipe
    with track_progress(console, "Counting classes", len(methods) * len(train)) as advance:

        def count(name: str) -> ClassCounts:
            fields = get_head_task(name, recipe.heads[name]).required_fields
            return count_classes(train, labels.heads[name].table, fields, lambda *_: advance())

        counts = processes.run_on_main(lambda: {name: count(name) for name in methods})
    heads = dict(recipe.heads)
    for name, method in methods.items():
        values = compute_class_weights(method, counts[name])
        weights = dict(zip(labels.heads[name].classes, values, strict=True))
        options = {**heads[name].options, "class_weights": weights}
        heads[name] = replace_settings(heads[name], {"options": options})
        if has_many_classes(weights):
            extremes = format_extremes(weights, ("highest", "lowest"))
            text = f"{extremes}; all in the run's recipe.yaml"
        else:
            text = ", ".join(f"{class_name} {weight:g}" for class_name, weight in weights.items())
        console.print(
            f"heads.{name}: class_weights {method}: {text}", highlight=False, markup=False
        )
    return replace_settings(recipe, {"heads": heads})


def find_measured_weights(recipe: Recipe) -> dict[str, str]:
    """Return head name -> method, for the heads whose class weights are measured on training data.

    Raises:
        RecipeError: If the method is unknown.
    """
    methods = {}
    for name, head in recipe.heads.items():
        method = head.options.get("class_weights")
        option_fields = get_head_class(name, head).Options.model_fields
        if not isinstance(method, str) or "class_weights" not in option_fields:
            continue  # numbers, or an option that the head itself rejects
        if method not in NAMED_WEIGHTS:
            hint = suggest_nearest(method, NAMED_WEIGHTS)
            raise RecipeError(
                f"heads.{name}.options.class_weights: {method!r} is not a class weighting; "
                f"allowed: {', '.join(NAMED_WEIGHTS)}, one number per class, or name -> "
                f"number{hint}"
            )
        methods[name] = method
    return methods
