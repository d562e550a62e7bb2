"""Settings that are measured on the training data and replace placeholders in the recipe."""

from __future__ import annotations

from resnet_tasks.assemble.heads import get_head_class, get_head_task
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.sampling.rare_classes import NAMED_WEIGHTS, compute_class_weights
from resnet_tasks.data.statistics.measure import Advance, count_classes, measure_channels
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest


def fill_in_constants(recipe: Recipe, train: CocoDataset, advance: Advance | None = None) -> Recipe:
    """Replace `data.normalize: data` by the mean and standard deviation of the training data.

    Args:
        recipe: Recipe whose normalization is replaced; all other settings are kept.
        train: Training split; all of its images are read.
        advance: Progress callback, called with (done, total).

    Raises:
        DataError: If an image cannot be read, or a channel is constant.
    """
    mean, std = measure_channels(train, advance)
    data = recipe.data.model_copy(update={"normalize": NormalizeRecipe(mean=mean, std=std)})
    return recipe.model_copy(update={"data": data})


def fill_in_class_weights(
    recipe: Recipe, labels: Labels, train: CocoDataset, advance: Advance | None = None
) -> Recipe:
    """Replace named methods of class weighting by weights measured on the training data.

    Args:
        recipe: Recipe whose class weights are replaced; all other settings are kept.
        labels: Classes of the recipe's heads.
        train: Training split; the label maps of semantic heads are read.
        advance: Progress callback, called with (done, total); it restarts for every such head.

    Raises:
        DataError: If a label map cannot be read.
    """
    heads = dict(recipe.heads)
    for name, method in find_measured_weights(recipe).items():
        table, fields = labels.heads[name].table, get_head_task(name, heads[name]).required_fields
        weights = compute_class_weights(method, count_classes(train, table, fields, advance))
        weights_by_class = dict(zip(labels.heads[name].classes, weights, strict=True))
        options = {**heads[name].options, "class_weights": weights_by_class}
        heads[name] = heads[name].model_copy(update={"options": options})
    return recipe.model_copy(update={"heads": heads})


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
            continue  # numbers, or an option that the head itself refuses
        if method not in NAMED_WEIGHTS:
            hint = suggest_nearest(method, NAMED_WEIGHTS)
            raise RecipeError(
                f"heads.{name}.options.class_weights: {method!r} is not a class weighting; "
                f"allowed: {', '.join(NAMED_WEIGHTS)}, one number per class, or name -> "
                f"number{hint}"
            )
        methods[name] = method
    return methods
