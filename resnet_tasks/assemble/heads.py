"""The heads that a recipe can name."""

from __future__ import annotations

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.heads import classifier
from resnet_tasks.heads import rcnn as faster_rcnn
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.semantic import fpn, unet
from resnet_tasks.recipe.schema.model import HeadRecipe

BUILT_IN_HEADS = (classifier, faster_rcnn, fpn, unet)
"""Importing a head's module registers it; a new built-in head is added here."""


def get_head_class(name: str, head: HeadRecipe) -> type[Head]:
    """The class of a recipe's head.

    Args:
        name: Of the head.
        head: What the recipe says of it.

    Raises:
        RecipeError: If no head is registered by its type.
    """
    try:
        return HEADS.get(head.type)
    except ResnetTasksError as error:
        raise RecipeError(f"heads.{name}.type: {error}") from None
