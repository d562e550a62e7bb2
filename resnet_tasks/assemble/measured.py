"""Settings that a recipe leaves to its training data: measured there, and put in their place."""

from __future__ import annotations

from resnet_tasks.assemble.heads import head_class
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.rare_classes import NAMED_WEIGHTS, class_weights
from resnet_tasks.data.statistics import Advance, count_classes, measure_channels
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.schema import NormalizeRecipe, Recipe
from resnet_tasks.registry import did_you_mean


def with_constants(recipe: Recipe, train: CocoDataset, advance: Advance | None = None) -> Recipe:
    """The recipe with the constants of its training data in the place of `data.normalize: data`.

    Args:
        recipe: Whose other settings stay.
        train: The training split; all of its pictures are read.
        advance: For progress, called with (done, total).

    Raises:
        DataError: If a picture cannot be read, or a channel never changes.
    """
    mean, std = measure_channels(train, advance)
    data = recipe.data.model_copy(update={"normalize": NormalizeRecipe(mean=mean, std=std)})
    return recipe.model_copy(update={"data": data})


def with_class_weights(
    recipe: Recipe, labels: Labels, train: CocoDataset, advance: Advance | None = None
) -> Recipe:
    """The recipe with numbers in the place of class weights that are named.

    Args:
        recipe: Whose other settings stay.
        labels: Classes of its heads.
        train: The training split; label maps of semantic heads are read.
        advance: For progress, called with (done, total), for each such head anew.

    Raises:
        DataError: If a label map cannot be read.
    """
    heads = dict(recipe.heads)
    for name, way in weights_to_measure(recipe).items():
        table, task = labels.heads[name].table, head_class(name, heads[name]).task
        weights = class_weights(way, count_classes(train, table, task, advance))
        named = dict(zip(labels.heads[name].classes, weights, strict=True))
        options = {**heads[name].options, "class_weights": named}
        heads[name] = heads[name].model_copy(update={"options": options})
    return recipe.model_copy(update={"heads": heads})


def weights_to_measure(recipe: Recipe) -> dict[str, str]:
    """Heads whose class weights are measured on the training data, and how.

    Raises:
        RecipeError: If there is no such way.
    """
    found = {}
    for name, head in recipe.heads.items():
        way = head.options.get("class_weights")
        known = head_class(name, head).Options.model_fields
        if not isinstance(way, str) or "class_weights" not in known:
            continue  # numbers, or something that the head refuses
        if way not in NAMED_WEIGHTS:
            hint = did_you_mean(way, NAMED_WEIGHTS)
            raise RecipeError(
                f"heads.{name}.options.class_weights: {way!r} is no way to weigh classes; there "
                f"are {', '.join(NAMED_WEIGHTS)}, one number per class, or name -> number{hint}"
            )
        found[name] = way
    return found
