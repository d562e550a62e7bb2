"""Dry check that a recipe can be built, without its weights and, if necessary, without its data."""

from __future__ import annotations

from pathlib import Path

from resnet_tasks.assemble.labels import (
    Labels,
    build_combined_heads,
    build_labels,
    create_placeholder_categories,
)
from resnet_tasks.assemble.model import build_backbone, build_model, get_backbone_shape
from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.backbone.family import ResNetSpec
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.errors import DataError, RecipeError, ResnetTasksError
from resnet_tasks.evaluation.evaluators import choose_best_metric
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.model import BackboneRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.tasks import DescribedHead


def check_recipe(recipe: Recipe, data_root: Path | None = None) -> str:
    """Build everything of a recipe except weights and data, and return a one-sentence summary.

    The categories of the data are used if the data is available, otherwise placeholder categories.

    Raises:
        ResnetTasksError: If `finetune` would fail before its first step.
    """
    try:
        categories = merge_categories(read_split(recipe, "train", data_root))
        source = f"{len(categories)} categories of its data"
    except DataError:
        categories = create_placeholder_categories(recipe)
        source = "placeholder categories, because its data is absent"
    model = _build_and_check(recipe, categories)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
    shape = get_backbone_shape(recipe.backbone)
    return f"{recipe.name}: {shape} with {heads}, {millions:.1f} M parameters, {source}"


def _build_and_check(recipe: Recipe, categories: CategoryMap) -> TaskModel:
    """Build the model of a recipe without its weights, after checking all parts of the recipe.

    Raises:
        RecipeError: If any part cannot be built; lists the problems of all parts, one per line.
    """
    problems: list[str] = []
    models: list[TaskModel] = []
    backbone_recipe = recipe.backbone
    # No weights are loaded, but parts may only be frozen if the recipe has pretrained weights.
    has_weights = backbone_recipe.weights != "none" or recipe.model_weights is not None
    weights = "unloaded" if has_weights else "none"

    def check_backbone() -> None:
        shape = get_backbone_shape(backbone_recipe)
        if isinstance(shape, ResNetSpec) and recipe.model_weights is None:
            shape.check_weights(backbone_recipe.weights)
        build_backbone(backbone_recipe, weights)

    def build_heads() -> None:
        plain = (
            backbone_recipe if not problems else BackboneRecipe(name="resnet18")
        )  # a placeholder, so that heads are checked even if the backbone is invalid
        plain_recipe = recipe.model_copy(update={"backbone": plain})
        labels = build_labels(plain_recipe, categories)
        models.append(build_model(plain_recipe, labels, weights="unloaded"))
        require_best_metric(plain_recipe, labels, models[0])

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


def require_best_metric(recipe: Recipe, labels: Labels, model: TaskModel) -> None:
    """Require that the metric that selects the best checkpoint exists.

    Raises:
        RecipeError: If it is no metric of any head or combiner.
    """
    combined = build_combined_heads(recipe, labels)
    heads: dict[str, DescribedHead] = {
        **model.named_heads,
        **{name: head.info for name, head in combined.items()},
    }
    choose_best_metric(heads, recipe.evaluation.best, recipe.evaluation.extra)
