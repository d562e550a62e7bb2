"""Replacement of settings of a recipe, for variants of it and for values found at set-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from resnet_tasks.recipe.schema.base import RecipeModel

Section = TypeVar("Section", bound=RecipeModel)


def replace_settings(section: Section, values: Mapping[str, Any]) -> Section:
    """Return a recipe, or a section of one, with other values of some settings.

    The values are not validated: they come from code and not from a user.

    Args:
        section: Recipe or section; it is not changed.
        values: Key path, such as `training.seed`, -> new value.
    """
    for path, value in values.items():
        key, _, remaining = path.partition(".")
        assert key in type(section).model_fields, f"{key} is a setting"
        new = replace_settings(getattr(section, key), {remaining: value}) if remaining else value
        section = section.model_copy(update={key: new})
    return section
