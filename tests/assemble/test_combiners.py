"""Combiners of a recipe: classes, ids and tables, and mistakes with their key path."""

from __future__ import annotations

import pytest

import tests.support.boxes_on_map  # noqa: F401  (registers the combiner)
from resnet_tasks.assemble.labels import build_combined_heads, build_labels
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe

CATEGORIES = CategoryMap((Category(3, "round"), Category(7, "striated")))


def test_labels_of_a_combined_prediction() -> None:
    recipe = load_recipe(
        "quickstart", ("combine.together={type: boxes_on_map, boxes: objects, pixels: scene}",)
    )
    labels = build_labels(recipe, CATEGORIES)
    assert labels.heads["together"].classes == ("background", "round", "striated")
    assert labels.heads["together"].category_ids == (0, 3, 7)
    assert labels.heads["together"].table.mapping == (1, 2)
    head = build_combined_heads(recipe, labels)["together"]
    assert head.info.task == "semantic_segmentation"
    assert head.combiner.heads["boxes"].classes == ("round", "striated")


@pytest.mark.parametrize(
    ("combine", "message"),
    [
        ("{type: soup}", r"combine\.a: unknown combiner 'soup'"),
        (
            "{type: boxes_on_map, boxes: objects}",
            r"combine\.a: boxes_on_map combines boxes \(a head .*\), pixels .*; got boxes; write",
        ),
        (
            "{type: boxes_on_map, boxes: object, pixels: scene}",
            r"boxes is 'object', but the heads are objects, scene; did you mean 'objects'\?",
        ),
        (
            "{type: boxes_on_map, boxes: scene, pixels: scene}",
            "boxes needs a head of the task detection, but the task of scene is semantic",
        ),
        (
            "{type: boxes_on_map, boxes: objects, pixels: scene, options: {score: x}}",
            "combine.a: score: got 'x'; allowed is a number",
        ),
    ],
)
def test_mistakes_name_the_key(combine: str, message: str) -> None:
    recipe = load_recipe("quickstart", (f"combine.a={combine}",))
    with pytest.raises(RecipeError, match=message):
        build_labels(recipe, CATEGORIES)
