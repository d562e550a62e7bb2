"""JSON schemas: lookup of the node of a key path, and sentences on the values that it allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

MAX_KEYS = 20
"""Number of keys above which a section is described without their names."""

_PLAIN = {
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "a section of keys",
}
_NUMBERS = ("integer", "number")
_SCALARS = ("string", *_NUMBERS)


@dataclass(frozen=True)
class JsonSchema:
    """JSON schema with the definitions that its nodes refer to.

    Attributes:
        root: Schema of the whole document, with `$defs`.
    """

    root: Schema

    def resolve(self, node: Schema) -> Schema:
        """Return the definition that a node refers to, or the node itself."""
        reference = node.get("$ref")
        if reference is None:
            return node
        definition: Schema = self.root["$defs"][reference.rpartition("/")[2]]
        return definition

    def list_members(self, node: Schema, value: Any = None) -> list[Schema]:
        """List the alternatives of a node, resolved.

        Args:
            node: Schema node.
            value: Value at the node, which selects among the branches (`if`, `then`) of a section.
        """
        members: list[Schema] = []
        for alternative in self.resolve(node).get("anyOf", [node]):
            member = self.resolve(alternative)
            members += [
                branch["then"]
                for branch in member.get("allOf", [])
                if _has_constants(value, branch["if"])
            ]
            members.append(member)
        return members

    def find_child(self, node: Schema, part: str | int, value: Any = None) -> Schema | None:
        """Find the node of a key or list position below a node; None if it is not described.

        Args:
            node: Schema node.
            part: Key or list position.
            value: Value at the node, see `list_members`.
        """
        for member in self.list_members(node, value):
            if isinstance(part, int):
                child = member.get("items")
            else:
                child = member.get("properties", {}).get(part, member.get("additionalProperties"))
            if isinstance(child, dict):
                return child
        return None

    def find(self, path: tuple[str | int, ...]) -> Schema:
        """Find the node of a key path; an empty one below free-form options."""
        node = self.root
        for part in path:
            node = self.find_child(node, part) or {}
        return node

    def iter_properties(self, node: Schema, value: Any = None) -> Iterator[tuple[str, Schema]]:
        """Iterate over the keys of a section and their nodes.

        Args:
            node: Schema node.
            value: Value at the node, see `list_members`.
        """
        names: set[str] = set()
        for member in self.list_members(node, value):
            for name, child in member.get("properties", {}).items():
                if name not in names:
                    names.add(name)
                    yield name, child

    def describe(self, node: Schema) -> str:
        """Describe the values that a node allows."""
        node = self.resolve(node)
        if "anyOf" in node:
            # Lists last: in "a list, each entry a number or null", null could be an entry.
            members = sorted(node["anyOf"], key=lambda member: member.get("type") == "array")
            return " or ".join(dict.fromkeys(map(self.describe, members)))
        if "const" in node:
            return repr(node["const"])
        if "enum" in node:
            choices = ("null" if choice is None else repr(choice) for choice in node["enum"])
            return "one of " + ", ".join(choices)
        kind = node.get("type", "")
        if kind in _NUMBERS:
            return ("a whole number" if kind == "integer" else "a number") + _describe_range(node)
        if kind == "array":
            items: Schema = node.get("items") or next(iter(node.get("prefixItems", [])), {})
            return f"a list{_describe_length(node)}, each entry {self.describe(items)}"
        if kind == "object" and 0 < len(node.get("properties", {})) <= MAX_KEYS:
            return "a section with the keys " + ", ".join(node["properties"])
        values = node.get("additionalProperties")
        if kind == "object" and isinstance(values, dict) and values.get("type") in _SCALARS:
            return f"a section of keys, each with {self.describe(values)}"
        return _PLAIN.get(kind, "any value")


def _has_constants(value: Any, condition: Schema) -> bool:
    """Return whether a section has the constants that the condition of a branch requires."""
    return isinstance(value, dict) and all(
        key in value and value[key] == node.get("const")
        for key, node in condition["properties"].items()
    )


def _describe_length(node: Schema) -> str:
    least = node.get("minItems")
    if least is not None and least == node.get("maxItems"):
        return f" of {least}"
    return ", not empty" if least else ""


def _describe_range(node: Schema) -> str:
    limit_names = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "multipleOf": "a multiple of",
    }
    limits = []
    if "minimum" in node and "maximum" in node:
        limits.append(f"from {_format(node['minimum'])} to {_format(node['maximum'])}")
        node = {"multipleOf": node["multipleOf"]} if "multipleOf" in node else {}
    limits += [f"{name} {_format(node[key])}" for key, name in limit_names.items() if key in node]
    return " " + " and ".join(limits) if limits else ""


def _format(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else f"{limit:g}"
