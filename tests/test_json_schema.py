"""Lookup in JSON schemas, and sentences on allowed values."""

from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.json_schema import JsonSchema

ROOT: dict[str, Any] = {
    "$defs": {
        "Small": {"type": "object", "properties": {"size": {"type": "integer"}}},
        "Owner": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "options": {"type": "object"}},
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": "small"}}},
                    "then": {"properties": {"options": {"$ref": "#/$defs/Small"}}},
                }
            ],
        },
    },
    "properties": {
        "entries": {"type": "array", "items": {"$ref": "#/$defs/Small"}},
        "named": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Owner"}},
    },
}


def test_nodes_are_found_through_lists_names_and_references() -> None:
    schema = JsonSchema(ROOT)
    assert schema.find(("entries", 3, "size")) == {"type": "integer"}
    assert schema.find(("named", "a", "type")) == {"type": "string"}
    assert schema.find(("named", "a", "nothing")) == {}


def test_a_value_selects_the_branch_of_its_type() -> None:
    schema = JsonSchema(ROOT)
    owner = schema.find(("named", "a"))
    assert schema.find_child(owner, "options", {"type": "small"}) == {"$ref": "#/$defs/Small"}
    assert schema.find_child(owner, "options", {"type": "other"}) == {"type": "object"}
    assert [name for name, _ in schema.iter_properties(owner)] == ["type", "options"]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 5}, "a whole number from 0 to 5"),
        (
            {"type": "integer", "minimum": 64, "maximum": 128, "multipleOf": 32},
            "a whole number from 64 to 128 and a multiple of 32",
        ),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "a number above 0 and at most 1"),
        (
            {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**32},
            "a whole number at least 0 and below 4294967296",
        ),
        ({"enum": ["a", None, 3]}, "one of 'a', null, 3"),
        (
            {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
            "null or a list, each entry a number",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            "a section of keys, each with text",
        ),
        ({"$ref": "#/$defs/Small"}, "a section with the keys size"),
        ({}, "any value"),
    ],
)
def test_allowed_values_are_described(node: dict[str, Any], sentence: str) -> None:
    assert JsonSchema(ROOT).describe(node) == sentence
