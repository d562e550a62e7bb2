"""Built-in heads and lookup of the heads that a recipe names, and of their tasks."""

from __future__ import annotations

from resnet_tasks.errors import HeadError, RecipeError, ResnetTasksError
from resnet_tasks.heads import classifier
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.heads.dense import fcos, retinanet
from resnet_tasks.heads.rcnn import faster_rcnn, mask_rcnn
from resnet_tasks.heads.semantic import (
    deeplab,
    fpn,
    linknet,
    manet,
    pan,
    pspnet,
    segformer,
    unet,
    unetplusplus,
    upernet,
)
from resnet_tasks.recipe.schema.model import HeadRecipe
from resnet_tasks.structures.tasks import Task
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS

BUILT_IN_HEADS = (
    classifier,
    faster_rcnn,
    mask_rcnn,
    fcos,
    retinanet,
    deeplab,
    fpn,
    linknet,
    manet,
    pan,
    pspnet,
    segformer,
    unet,
    unetplusplus,
    upernet,
)
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


def get_head_task(name: str, head: HeadRecipe) -> Task:
    """Return the task of a recipe's head, which may depend on its options.

    Args:
        name: Name of the head in the recipe.
        head: Entry of the head in the recipe.

    Raises:
        RecipeError: If no head is registered under its type, no task under the name that the head
            gives, or an option is invalid.
    """
    # The name of a weighting is replaced by weights that are measured on the training data.
    options = {
        key: option
        for key, option in head.options.items()
        if key != "class_weights" or not isinstance(option, str)
    }
    assert BUILT_IN_TASKS  # the import registers the built-in tasks
    try:
        return get_head_class(name, head).find_task(options)
    except HeadError as error:
        raise RecipeError(f"heads.{name}: {error}") from None
