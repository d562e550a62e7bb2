"""Reading of single settings from the recipe of a run, for modules that know no recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from resnet_tasks.recipe.load import read_recipe_document
from resnet_tasks.run_folder.files import RECIPE
from resnet_tasks.run_folder.read import (
    describe_schema_error,
    make_damage_error,
    make_folder_error,
)
from resnet_tasks.run_folder.schemas import RecipeOfBackbone


def read_backbone_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the backbone from a run's `recipe.yaml`.

    Args:
        path: Path of the recipe, whose other settings are not validated.

    Raises:
        RecipeError: If the file cannot be read, is truncated or was written by a newer version.
        RunError: If it does not name a backbone.
    """
    if path.is_dir():
        raise make_folder_error(path, RECIPE)
    value = read_recipe_document(path).value
    try:
        msgspec.convert(value, type=RecipeOfBackbone)
    except msgspec.ValidationError as error:
        raise make_damage_error(path, RECIPE, describe_schema_error(error)) from None
    settings: dict[str, Any] = value["backbone"]
    return settings
