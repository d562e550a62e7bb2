"""JSON schema of recipes with the options of all heads, combiners, evaluators and transforms.

The schema of `recipe.schema` cannot know these options, because their classes are registered by
name, some of them by plugins.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.data.augmentation.transform_schemas import build_transform_schemas
from resnet_tasks.data.sampling.rare_classes import NAMED_WEIGHTS
from resnet_tasks.docstrings import get_introduction
from resnet_tasks.evaluation.evaluators import BUILT_IN_EVALUATORS
from resnet_tasks.heads.base import HEADS
from resnet_tasks.inference.combiners import COMBINERS
from resnet_tasks.json_schema import JsonSchema, Schema
from resnet_tasks.options import OptionsSchema, get_options_schema
from resnet_tasks.recipe.load import get_recipe_schema
from resnet_tasks.registry import EXTRA_EVALUATORS

NULL: Schema = {"type": "null"}


def build_recipe_schema() -> Schema:
    """Build the schema for editors that complete and validate YAML, and for listings of keys.

    It has the options of everything that is registered when it is built. Names that are not
    registered are allowed, because the plugins of a recipe may register them.
    """
    assert BUILT_IN_HEADS  # the import registers the built-in heads
    assert BUILT_IN_EVALUATORS  # likewise
    schema = copy.deepcopy(get_recipe_schema())
    definitions: Schema = schema["$defs"]
    heads = {name: HEADS.get(name).Options for name in HEADS}
    combiners = {name: COMBINERS.get(name).Options for name in COMBINERS}
    evaluators = {name: EXTRA_EVALUATORS.get(name).Options for name in EXTRA_EVALUATORS}
    references, options = _build_definitions({**heads, **combiners, **evaluators})
    for options_schema in options.values():
        _allow_weight_names(options_schema)
    definitions.update(options)
    _add_types(definitions["HeadRecipe"], {name: {} for name in heads}, references)
    _add_types(
        definitions["CombinerRecipe"],
        {name: _describe_roles(COMBINERS.get(name).roles) for name in combiners},
        references,
    )
    definitions["EvaluationRecipe"]["properties"]["extra"]["additionalProperties"] = {
        "type": "object",
        "properties": {
            name: {
                "anyOf": [references[name], NULL],
                "description": get_introduction(EXTRA_EVALUATORS.get(name).__doc__),
            }
            for name in evaluators
        },
        "additionalProperties": {"anyOf": [{"type": "object"}, NULL]},
    }
    steps = schema["properties"]["augment"]["anyOf"][0]
    steps["items"]["properties"] = {
        name: {"anyOf": [transform, NULL], "description": transform["description"]}
        for name, transform in build_transform_schemas().items()
    }
    return schema


def get_head_schema(options_class: type[BaseModel]) -> JsonSchema:
    """Return the schema of the options of a head, as a recipe can set them."""
    schema = get_options_schema(options_class)
    _allow_weight_names(schema.root)
    return schema


def _allow_weight_names(schema: Schema) -> None:
    """Allow the names of weightings, which are replaced before the head reads its options."""
    node = schema.get("properties", {}).get("class_weights", {})
    if "anyOf" in node:
        node["anyOf"].insert(0, {"enum": list(NAMED_WEIGHTS)})


def _build_definitions(classes: Mapping[str, type[BaseModel]]) -> tuple[Schema, Schema]:
    """Return a reference per name, and the definitions that the references point to."""
    inputs = [(options_class, "validation") for options_class in dict.fromkeys(classes.values())]
    by_class, definitions = models_json_schema(
        inputs,  # type: ignore[arg-type]  # literal mode
        schema_generator=OptionsSchema,
    )
    references = {name: by_class[options, "validation"] for name, options in classes.items()}
    return references, definitions.get("$defs", {})


def _add_types(owner: Schema, properties: Mapping[str, Schema], references: Schema) -> None:
    """Add the names of types to the schema of a section, and a branch with options for each.

    Args:
        owner: Schema of a section with the keys `type` and `options`, changed in place.
        properties: Name of a type -> schemas of further keys of its section.
        references: Name of a type -> reference to the schema of its options.
    """
    owner["properties"]["type"]["anyOf"] = [{"enum": list(properties)}, {"type": "string"}]
    del owner["properties"]["type"]["type"]
    description = owner["properties"]["options"]["description"]
    owner["allOf"] = [
        {
            "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
            "then": {
                "properties": {
                    **keys,
                    "options": {"anyOf": [references[name], NULL], "description": description},
                }
            },
        }
        for name, keys in properties.items()
    ]


def _describe_roles(roles: Mapping[str, str]) -> dict[str, Any]:
    return {
        role: {"type": "string", "description": f"Name of a head of the task {task}."}
        for role, task in roles.items()
    }
