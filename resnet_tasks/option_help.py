"""Listings of options for people: name, meaning, allowed values and default of each."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resnet_tasks.docstrings import get_first_sentence
from resnet_tasks.json_schema import JsonSchema, Schema

MAX_WIDTH = 100
"""Characters per line above which text is hard to read, even on a wide terminal."""
MAX_COLUMN = 30
"""Characters of the first column; longer names get a line of their own and are never cut."""
MAX_DESCRIPTION = 300
"""Characters above which a listing has only the first sentence; the JSON schema has the rest."""

_PLAIN_TEXT = re.compile(r"[A-Za-z_][\w./+-]*")
_NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off"}
"""Words that YAML parsers read as other types."""


@dataclass(frozen=True)
class OptionHelp:
    """Description of one option.

    Attributes:
        name: Name of the option, or its key path.
        description: Meaning, one or more sentences; empty if its class does not document it.
        allowed: Values that it allows, such as "a number at least 0".
        default: Default as YAML; None if there is none.
        is_required: Whether it must be set.
    """

    name: str
    description: str
    allowed: str
    default: str | None
    is_required: bool


def list_options(schema: JsonSchema) -> list[OptionHelp]:
    """List the options that a schema describes, with those of sections inside it.

    A key path has `N.` for a position in a list, and `NAME.` for a key that the user chooses.
    """
    return list(_iter_options(schema, schema.root, ""))


def matches(name: str, key: str) -> bool:
    """Return whether a key path denotes an option, or a section that contains the option.

    Args:
        name: Name of the option, with `N` and `NAME` for positions and names.
        key: Key path with positions and names, such as `data.train.0`.
    """
    parts, key_parts = name.split("."), key.split(".")
    return len(key_parts) <= len(parts) and all(
        part in (key_part, "NAME") or (part == "N" and key_part.isdecimal())
        for part, key_part in zip(parts, key_parts, strict=False)
    )


def _iter_options(schema: JsonSchema, node: Schema, prefix: str) -> Iterator[OptionHelp]:
    required = {name for member in schema.list_members(node) for name in member.get("required", ())}
    for name, child in schema.iter_properties(node):
        inner = [
            (entry, key)
            for member in schema.list_members(child)
            for entry, key in _iter_sections(schema, member)
        ]
        default = child.get("default")
        has_default = "default" in child and not (inner and default)
        yield OptionHelp(
            prefix + name,
            child.get("description", ""),
            schema.describe(child),
            format_value(default) if has_default else None,
            is_required=name in required,
        )
        for entry, key in inner:
            yield from _iter_options(schema, entry, f"{prefix}{name}.{key}")


def _iter_sections(schema: JsonSchema, node: Schema) -> Iterator[tuple[Schema, str]]:
    """Iterate over the sections that a node contains, with the key path from the node to each."""
    entries = ((node, ""), (node.get("items"), "N."), (node.get("additionalProperties"), "NAME."))
    for entry, key in entries:
        if isinstance(entry, dict) and schema.resolve(entry).get("properties"):
            yield entry, key


def format_value(value: Any) -> str:
    """Format a value as YAML in one line, readable as the value of `key=value`."""
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, dict):
        entries = (f"{format_value(key)}: {format_value(entry)}" for key, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    return json.dumps(value, ensure_ascii=False)


def format_options(options: Sequence[OptionHelp], width: int, *, is_short: bool = False) -> str:
    """Format options as a list: names in the first column, and their meaning in the second.

    Args:
        options: Options in order.
        width: Characters per line of the terminal.
        is_short: Whether to print the first sentence of each meaning only, without values.
    """
    rows = []
    for option in options:
        description = option.description
        if is_short or len(description) > MAX_DESCRIPTION:
            description = get_first_sentence(description)
        rows.append((option.name, [description, *([] if is_short else [_format_values(option)])]))
    return format_rows(rows, width)


def _format_values(option: OptionHelp) -> str:
    default = f"; default: {option.default}" if option.default is not None else ""
    return f"[{option.allowed}{'; required' if option.is_required else default}]"


def format_rows(rows: Iterable[tuple[str, Sequence[str]]], width: int) -> str:
    """Format a list with names in the first column and wrapped paragraphs in the second.

    Args:
        rows: Name and paragraphs of each row.
        width: Characters per line of the terminal.
    """
    rows = list(rows)
    fitting = [len(name) for name, _ in rows if len(name) <= MAX_COLUMN]
    column = max(fitting, default=MAX_COLUMN) + 2
    lines = []
    for name, paragraphs in rows:
        texts = [
            line
            for paragraph in paragraphs
            for line in wrap(paragraph, max(20, min(width, MAX_WIDTH) - column - 2))
        ]
        if len(name) > column - 2 or not texts:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:{column}}{texts.pop(0)}")
        lines += [" " * (column + 2) + text for text in texts]
    return "\n".join(lines)


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text at spaces only, so that keys and paths stay whole."""
    width = min(width, MAX_WIDTH)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
