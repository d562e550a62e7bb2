"""Construction of the combiners of a recipe from the heads that they read."""

from __future__ import annotations

from collections.abc import Mapping

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.errors import HeadError, RecipeError, ResnetTasksError
from resnet_tasks.inference.combiners import COMBINERS, CombinedHead
from resnet_tasks.recipe.schema.model import CombinerRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.evaluation import IGNORED, VOID
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.label_table import LabelTable


def build_combiners(
    recipe: Recipe, categories: CategoryMap, heads: Mapping[str, HeadInfo]
) -> dict[str, CombinedHead]:
    """Build the combiners of a recipe.

    Args:
        recipe: Recipe with or without `combine`.
        categories: Categories of the dataset.
        heads: Head name -> task and classes.

    Raises:
        RecipeError: If a combiner is unknown, lacks a head or gets one of another task, or an
            option is invalid; lists the problems of all combiners, one per line.
    """
    combined, problems = {}, []
    for name, combiner in recipe.combine.items():
        try:
            combined[name] = _build_combiner(combiner, categories, heads)
        except ResnetTasksError as error:
            problems.append(f"combine.{name}: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    return combined


def _build_combiner(
    recipe: CombinerRecipe, categories: CategoryMap, heads: Mapping[str, HeadInfo]
) -> CombinedHead:
    combiner_class = COMBINERS.get(recipe.type)
    roles = recipe.roles
    needed = combiner_class.roles
    if set(roles) != set(needed):
        expected = ", ".join(f"{role} (a head of the task {task})" for role, task in needed.items())
        raise HeadError(
            f"{recipe.type} combines {expected}; got {', '.join(roles) or 'no head'}; write a line "
            "`ROLE: HEAD` for each role"
        )
    for role, head in roles.items():
        if head not in heads:
            hint = suggest_nearest(head, heads)
            raise HeadError(f"{role} is {head!r}, but the heads are {', '.join(heads)}{hint}")
        if heads[head].task != needed[role]:
            raise HeadError(
                f"{role} needs a head of the task {needed[role]}, but the task of {head} is "
                f"{heads[head].task}"
            )
    combiner = combiner_class({role: heads[head] for role, head in roles.items()}, recipe.options)
    classes = combiner.list_classes()
    ids = {category.name: category.id for category in categories.categories}
    table = LabelTable(
        classes,
        tuple(classes.index(name) if name in classes else IGNORED for name in categories.names),
        VOID,
    )
    info = HeadInfo(
        combiner_class.task, classes, tuple(ids.get(name, 0) for name in classes), table
    )
    return CombinedHead(combiner, roles, info)
