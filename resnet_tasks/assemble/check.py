"""Whether a recipe can be built, found out without its weights, and without its data if need be."""

from __future__ import annotations

from pathlib import Path

from resnet_tasks.assemble.labels import label_heads, made_up_categories
from resnet_tasks.assemble.model import backbone_shape, build_backbone, build_model
from resnet_tasks.assemble.splits import merged_categories, read_split
from resnet_tasks.backbone.family import Depth
from resnet_tasks.data.coco import CategoryMap
from resnet_tasks.data.transforms import Augmentation
from resnet_tasks.errors import DataError, RecipeError, ResnetTasksError
from resnet_tasks.evaluation.evaluators import best_metric
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema import BackboneRecipe, Recipe


def check_recipe(recipe: Recipe, data_root: Path | None = None) -> str:
    """Builds everything of a recipe but weights and data; what is built in one sentence.

    Where the data is at hand its categories are used, else two made-up ones.

    Raises:
        ResnetTasksError: What would stop `finetune` before its first step.
    """
    try:
        categories = merged_categories(read_split(recipe, "train", data_root))
        source = f"{len(categories)} categories of its data"
    except DataError:
        categories = made_up_categories(recipe)
        source = "made-up categories, its data being absent"
    model = _built_whole(recipe, categories)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
    shape = backbone_shape(recipe.backbone)
    return f"{recipe.name}: {shape} with {heads}, {millions:.1f} M parameters, {source}"


def _built_whole(recipe: Recipe, categories: CategoryMap) -> TaskModel:
    """The model of a recipe without its weights, after every part of the recipe was looked at.

    Raises:
        RecipeError: With the problems of all parts, a line each.
    """
    problems: list[str] = []
    models: list[TaskModel] = []
    part = recipe.backbone
    # Weights are not loaded; whether parts may be frozen depends on there being any.
    has_weights = part.weights != "none" or recipe.model_weights is not None
    weights = "unloaded" if has_weights else "none"

    def check_backbone() -> None:
        shape = backbone_shape(part)
        if isinstance(shape, Depth) and recipe.model_weights is None:
            shape.check_weights(part.weights)
        build_backbone(part, weights)

    def build_heads() -> None:
        plain = part if not problems else BackboneRecipe(name="resnet18")  # to look at heads anyway
        made = recipe.model_copy(update={"backbone": plain})
        labels = label_heads(made, categories)
        models.append(build_model(made, labels, weights="unloaded"))
        best_metric(models[0].named_heads, recipe.evaluation.best, recipe.evaluation.extra)

    def build_augmentation() -> None:
        Augmentation(recipe.augment, recipe.data.channels)

    for build in (check_backbone, build_heads, build_augmentation):
        try:
            build()
        except ResnetTasksError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return models[0]
