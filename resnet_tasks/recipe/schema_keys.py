"""Navigation in the JSON schema of a recipe: the nodes and the keys of every section."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from resnet_tasks.foreign_names import HEAD
from resnet_tasks.json_schema import JsonSchema, Schema
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.yaml_text import KeyPath


@cache
def get_json_schema() -> JsonSchema:
    """Return the JSON schema of a recipe, without the options of heads."""
    return JsonSchema(Recipe.model_json_schema())


def find_schema(path: KeyPath) -> Schema:
    """Find the schema node of a key path; an empty one below free-form options."""
    return get_json_schema().find(path)


def list_members(node: Schema) -> list[Schema]:
    """List the alternatives of a node; a node without alternatives is its only member."""
    return get_json_schema().list_members(node)


def list_section_keys(path: KeyPath) -> list[str]:
    """List the named keys of a section; an empty list for other values."""
    return [
        key for member in list_members(find_schema(path)) for key in member.get("properties", {})
    ]


def iter_key_paths(node: Schema | None = None, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Iterate over the paths of all named keys, at any depth.

    Args:
        node: Node to start from; default: the whole recipe.
        path: Path of that node.

    Yields:
        Key paths, with position 0 for the entries of a list and `HEAD` for freely chosen names.
    """
    for member in list_members(get_json_schema().root if node is None else node):
        for key, child in member.get("properties", {}).items():
            yield (*path, key)
            yield from iter_key_paths(child, (*path, key))
        for part, child in ((0, member.get("items")), (HEAD, member.get("additionalProperties"))):
            if isinstance(child, dict):
                yield from iter_key_paths(child, (*path, part))
