"""JSON schema of recipes with everything that is registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field

from resnet_tasks.assemble.recipe_schema import build_recipe_schema
from resnet_tasks.heads.base import HEADS, HeadOptions
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.inference.combiners import COMBINERS, CombinerOptions
from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.shipped_recipes import find_recipe, list_recipes
from resnet_tasks.recipe.yaml_text import parse_yaml
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
    # Other tests register heads without documentation in the same process.
    built_in = {
        n: head for n, head in HEADS._items.items() if head.__module__.startswith("resnet_tasks.")
    }
    monkeypatch.setattr(HEADS, "_items", {**built_in, "plugin_head": PluginHead})
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


TYPES: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": list,
    "integer": int,
    "number": (int, float),
}


def is_valid(schema: JsonSchema, node: dict[str, Any], value: Any) -> bool:
    """Whether a validator of JSON schemas accepts a value, for the keywords that occur here."""
    node = schema.resolve(node)
    if "anyOf" in node:
        return any(is_valid(schema, member, value) for member in node["anyOf"])
    if "enum" in node:
        return value in node["enum"]
    kind = node.get("type")
    if kind and (
        not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        return False
    if isinstance(value, (int, float)):
        return (
            node.get("minimum", value) <= value <= node.get("maximum", value)
            and not value <= node.get("exclusiveMinimum", value - 1)
            and not value >= node.get("exclusiveMaximum", value + 1)
        )
    if isinstance(value, list):
        return all(is_valid(schema, node.get("items", {}), entry) for entry in value)
    if isinstance(value, dict):
        required = set(node.get("required", ())) <= set(value)
        rest = node.get("additionalProperties", True)
        return required and all(
            is_valid(schema, schema.find_child(node, key, value) or {}, entry)
            for key, entry in value.items()
            if key in node.get("properties", {}) or rest is not False or fail_unknown(node, key)
        )
    return True


def fail_unknown(node: dict[str, Any], key: str) -> bool:
    raise AssertionError(f"{key} is not in {list(node['properties'])}")


def test_an_editor_accepts_the_shipped_recipes(schema: dict[str, Any]) -> None:
    found = JsonSchema(schema)
    recipes = list_recipes()
    assert len(recipes) >= 8
    for recipe in recipes:
        value = parse_yaml(find_recipe(recipe.name).read_text(encoding="utf-8"), "recipe").value
        for key, entry in value.items():
            node = found.find_child(schema, key)
            assert node is not None
            assert is_valid(found, node, entry), f"{recipe.name}: {key}"


def test_an_editor_marks_wrong_options_of_heads(schema: dict[str, Any]) -> None:
    found = JsonSchema(schema)
    heads = found.find(("heads",))
    assert is_valid(found, heads, {"a": {"type": "unet", "options": {"class_weights": "balanced"}}})
    assert is_valid(found, heads, {"a": {"type": "unknown", "options": {"any": 1}}})
    assert is_valid(found, heads, {"a": {"type": "unet", "options": None}})
    assert not is_valid(found, heads, {"a": {"type": "unet", "options": {"norm": "layer"}}})
    assert not is_valid(found, heads, {"a": {"type": "unet", "options": {"dropout": 1}}})
    assert not is_valid(found, heads, {"a": {"loss_weight": 1}})
    with pytest.raises(AssertionError, match="nms is not in"):
        is_valid(found, heads, {"a": {"type": "faster_rcnn", "options": {"nms": 1}}})
