"""Recipes with small backbones, as dicts of their heads, and the categories of a data set."""

from __future__ import annotations

from typing import Any

from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.recipe.schema.recipe import Recipe

CATEGORIES = CategoryMap(
    (Category(3, "car"), Category(7, "road", is_thing=False), Category(9, "person"))
)


def recipe(**heads: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "data": {
                "root": "here",
                "train": [{"annotations": "train.json"}],
                "val": [{"annotations": "train.json"}],
            },
            "backbone": {"name": "resnet10t", "weights": "none"},
            "heads": heads,
        }
    )


def with_backbone(part: dict[str, Any], head: str) -> Recipe:
    values = recipe(scene={"type": head}).model_dump()
    return Recipe.model_validate(values | {"backbone": part})
