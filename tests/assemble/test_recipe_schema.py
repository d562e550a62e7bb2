"""JSON schema of recipes with everything that is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import torch
import yaml
from pydantic import Field

from resnet_tasks.assemble.recipe_schema import build_recipe_schema
from resnet_tasks.heads.base import HEADS, HeadOptions
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.combiners import COMBINERS, CombinerOptions
from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.shipped_recipes import find_recipe, list_recipes
from tests.support.boxes_on_map import BoxesOnMap


class PluginOptions(HeadOptions):
    """Options of a plugin.

    Attributes:
        depth: Number of layers. More are slower.
        dtype: Number format, a type that JSON does not have.
    """

    depth: Annotated[int, Field(ge=1, le=9)] = 2
    dtype: torch.dtype = torch.float32


class PluginHead(UNet):
    """Head of a plugin."""

    Options = PluginOptions


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(HEADS._items, "plugin_head", PluginHead)
    monkeypatch.setitem(COMBINERS._items, "boxes_on_map", BoxesOnMap)
    return build_recipe_schema()


def iter_undescribed(node: Any, path: str = "") -> Iterator[str]:
    """Names of the properties without a description; conditions (`if`) describe nothing."""
    if isinstance(node, dict):
        properties = node.get("properties")
        for name, child in properties.items() if isinstance(properties, dict) else ():
            if not child.get("description"):
                yield f"{path}/{name}"
        for key, child in node.items():
            if key != "if":
                yield from iter_undescribed(child, f"{path}/{key}")
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from iter_undescribed(child, f"{path}/{i}")


def test_every_property_has_a_description(schema: dict[str, Any]) -> None:
    assert list(iter_undescribed(schema)) == []
    assert json.loads(json.dumps(schema)) == schema
    for name in ("FasterRCNNOptions", "UNetOptions", "FrocOptions", "PluginOptions"):
        assert name in schema["$defs"]


def test_an_option_without_a_description_is_noticed() -> None:
    class Undocumented(CombinerOptions):
        """Options.

        Attributes:
            a: Meaning.
        """

        a: int = 1
        b: int = 2

    assert list(iter_undescribed(Undocumented.model_json_schema())) == ["/b"]


def test_options_have_meaning_default_choices_and_range(schema: dict[str, Any]) -> None:
    found = JsonSchema(schema)
    plugin = {"type": "plugin_head"}
    head = found.find(("heads", "scene"))
    depth = found.find_child(found.find_child(head, "options", plugin) or {}, "depth")
    assert depth is not None
    assert depth["description"] == "Number of layers. More are slower."
    assert (depth["default"], depth["minimum"], depth["maximum"]) == (2, 1, 9)
    unet = found.find_child(found.find_child(head, "options", {"type": "unet"}) or {}, "norm")
    assert unet is not None
    assert unet["enum"] == ["batch", "group"]
    combiner = found.find_child(found.find(("combine", "both")), "boxes", {"type": "boxes_on_map"})
    assert combiner is not None
    assert combiner["description"] == "Name of a head of the task detection."
    assert found.find(("evaluation", "extra", "cells", "froc", "iou"))["default"] == 0.5
    assert found.find(("augment", 0, "Affine", "keep_ratio"))["type"] == "boolean"
    assert found.find(("training", "trackers"))["items"]["enum"][0] == "tensorboard"
    kitti = found.find(("evaluation", "extra", "cells", "kitti", "neighbors"))
    assert kitti["default"] == {"van": "car", "person_sitting": "pedestrian"}


def test_descriptions_are_those_of_the_docstring() -> None:
    schema = Recipe.model_json_schema()
    training = schema["$defs"]["TrainingRecipe"]
    assert "Attributes:" not in json.dumps(schema)
    assert training["properties"]["epochs"]["description"] == (
        "Number of passes over the training images."
    )
    assert training["properties"]["patience"]["description"].endswith("null: never.")


def test_the_schema_has_every_key_of_the_shipped_recipes(schema: dict[str, Any]) -> None:
    found = JsonSchema(schema)

    def check(node: dict[str, Any], value: Any, path: str) -> int:
        number = 0
        if isinstance(value, dict):
            for key, entry in value.items():
                child = found.find_child(node, key, value)
                assert child is not None, f"{path}.{key}"
                number += 1 + check(child, entry, f"{path}.{key}")
        elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            for entry in value:
                number += check(found.find_child(node, 0) or {}, entry, path)
        return number

    recipes = list_recipes()
    assert len(recipes) >= 8
    for recipe in recipes:
        text = find_recipe(recipe.name).read_text(encoding="utf-8")
        assert check(schema, yaml.safe_load(text), recipe.name) > 10
