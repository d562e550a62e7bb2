"""Built-in heads and lookup of the heads that a recipe names."""

from __future__ import annotations

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.heads import classifier
from resnet_tasks.heads import rcnn as faster_rcnn
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.semantic import fpn, unet
from resnet_tasks.recipe.schema.model import HeadRecipe

BUILT_IN_HEADS = (classifier, faster_rcnn, fpn, unet)
"""Modules of the built-in heads, which register themselves at import; new heads are added here."""


def get_head_class(name: str, head: HeadRecipe) -> type[Head]:
    """Return the class of a recipe's head.

    Args:
        name: Name of the head in the recipe.
        head: Entry of the head in the recipe.

    Raises:
        RecipeError: If no head is registered under its type.
    """
    try:
        return HEADS.get(head.type)
    except ResnetTasksError as error:
        raise RecipeError(f"heads.{name}.type: {error}") from None
