"""Recipes as YAML in which comments explain every key."""

from __future__ import annotations

from typing import Any

from resnet_tasks.docstrings import get_first_sentence
from resnet_tasks.json_schema import JsonSchema, Schema
from resnet_tasks.option_help import MAX_DESCRIPTION, MAX_WIDTH, format_value, wrap
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.yaml_text import KeyPath, dump_inline

HEADER = (
    "Every key of the recipe, with its meaning and [the values that it allows]. The meaning is "
    "given where a key first appears. `# default: VALUE` after a value marks a value that differs "
    "from its default. A line `#KEY: VALUE` is an option that the recipe leaves at its default; "
    "remove its # to set it."
)
STEP = "  "
"""Indentation of one level."""


def annotate_recipe(recipe: Recipe, schema: JsonSchema, width: int, note: str = "") -> str:
    """Format a recipe with every default written out and every key explained.

    `load_recipe` reads back an equal recipe.

    Args:
        recipe: Recipe to format.
        schema: Schema of recipes; the options of heads and others are explained if it has them.
        width: Characters per line of the comments.
        note: Further text for the comment on top.
    """
    writer = _AnnotatedYaml(schema, width)
    writer.write_comment(f"{HEADER} {note}".strip(), "")
    writer.write_section(recipe.model_dump(mode="json"), schema.root, ())
    return "\n".join(writer.lines) + "\n"


class _AnnotatedYaml:
    """Lines of a YAML document whose keys are explained by comments.

    Args:
        schema: Schema that describes the keys.
        width: Characters per line of the comments.
    """

    def __init__(self, schema: JsonSchema, width: int) -> None:
        self.lines: list[str] = []
        self._schema = schema
        self._width = min(width, MAX_WIDTH)
        # Nodes by identity: the key of a section that appears several times is one node.
        self._explained: set[int] = set()

    def write_comment(self, text: str, indent: str) -> None:
        """Write a comment of one or more lines."""
        width = max(20, self._width - len(indent) - 2)
        self.lines += [f"{indent}# {line}" for line in wrap(text, width)]

    def write_section(self, values: dict[str, Any], node: Schema, path: KeyPath) -> None:
        """Write the keys of a section, and the options that are not set as comments.

        Args:
            values: Key -> value, as in JSON.
            node: Node of the section.
            path: Key path of the section.
        """
        indent = STEP * len(path)
        for key, value in values.items():
            if not path:
                self.lines.append("")
            child = self._schema.find_child(node, key, values) or {}
            self._explain(child, indent, is_section=_has_sections(value))
            self._write_value(key, value, child, (*path, key))
        if _has_free_options(path):
            for key, child in self._schema.iter_properties(node):
                if key not in values:
                    self._explain(child, indent)
                    self.lines.append(f"{indent}#{key}: {format_value(child.get('default'))}")

    def _write_value(self, key: str, value: Any, node: Schema, path: KeyPath) -> None:
        indent = STEP * (len(path) - 1)
        is_changed = "default" in node and node["default"] != value
        mark = f"  # default: {format_value(node['default'])}" if is_changed else ""
        is_empty = not value and _has_free_options(path) and any(self._schema.iter_properties(node))
        if is_empty and (value is None or path[-1] == "options"):
            # A key with nothing but comments below it, which is read as null.
            self.lines.append(f"{indent}{dump_inline(key)}:")
            self.write_section({}, node, path)
        elif isinstance(value, dict) and value:
            self.lines.append(f"{indent}{dump_inline(key)}:")
            self.write_section(value, node, path)
        elif _has_sections(value):
            self.lines.append(f"{indent}{dump_inline(key)}:{mark}")
            self._write_entries(value, node, path)
        else:
            self.lines.append(f"{indent}{dump_inline(key)}: {dump_inline(value)}{mark}")

    def _write_entries(self, values: list[dict[str, Any]], node: Schema, path: KeyPath) -> None:
        """Write a list of sections; the dash takes the place of indentation."""
        entry_node = self._schema.find_child(node, 0) or {}
        indent = STEP * len(path)
        for value in values:
            start = len(self.lines)
            self.write_section(value, entry_node, (*path, 0))
            first = next(
                i
                for i, line in enumerate(self.lines[start:], start)
                if not line.lstrip().startswith("#")
            )
            self.lines[first] = f"{indent}- {self.lines[first].lstrip()}"
            self.lines[start:first] = [indent + line.lstrip() for line in self.lines[start:first]]

    def _explain(self, node: Schema, indent: str, *, is_section: bool = False) -> None:
        """Write the comment on a key, unless it was written before.

        Args:
            node: Node of the key.
            indent: Indentation of the key.
            is_section: Whether the value is a section, whose keys follow.
        """
        if id(node) in self._explained or not node:
            return
        self._explained.add(id(node))
        description = node.get("description", "")
        if len(description) > MAX_DESCRIPTION:
            description = get_first_sentence(description)
        allowed = "" if is_section else f"[{self._schema.describe(node)}]"
        self.write_comment(f"{description} {allowed}".strip(), indent)


def _has_free_options(path: KeyPath) -> bool:
    """Return whether a section has the options of a registered class, of which few may be set."""
    return (len(path) == 3 and path[0] in ("heads", "combine") and path[2] == "options") or (
        len(path) == 4 and path[:2] == ("evaluation", "extra")
    )


def _has_sections(value: Any) -> bool:
    """Return whether a value is a section with keys, or a list of such sections."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(entry, dict) and entry for entry in value)
    return isinstance(value, dict) and bool(value)
