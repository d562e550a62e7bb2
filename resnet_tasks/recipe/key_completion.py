"""Completion of `KEY=VALUE` on the command line, from the schema and the recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_tasks.docstrings import get_first_sentence
from resnet_tasks.foreign_names import HEAD
from resnet_tasks.recipe.schema_keys import find_schema, list_members, list_section_keys
from resnet_tasks.recipe.yaml_text import KeyPath, format_key_path, get_value

Completion = tuple[str, str]
"""Text that replaces the incomplete word, and its description."""
KnownValues = Mapping[str, Callable[[], Sequence[str]]]
"""Key, with `HEAD` for the name of a head -> function that lists its values."""

_SAFE = re.compile(r"[\w.,:/@+\[\]-]+")
"""Values that a shell passes on unchanged."""


def complete_assignment(
    text: str, document: Any, known_values: KnownValues | None = None
) -> list[Completion]:
    """Complete an override: the next part of its key, or its value after `=`.

    Shells append a space to a single completion. A single section is therefore replaced by its
    keys, and a single key by the key with each of its values.

    Args:
        text: Incomplete override, such as `training.le`.
        document: Parsed recipe that the override changes; its heads, list positions and values are
            offered.
        known_values: Values of keys that the schema does not list.
    """
    key, equals, _ = text.partition("=")
    if equals:
        completions = _complete_values(_split_key(key), document, known_values or {})
        return [completion for completion in completions if completion[0].startswith(text)]
    completions = _complete_keys(text, document)
    while len(completions) == 1 and completions[0][0].endswith("."):
        completions = _complete_keys(completions[0][0], document)
    if len(completions) == 1 and completions[0][0].endswith("="):
        path = _split_key(completions[0][0].removesuffix("="))
        values = _complete_values(path, document, known_values or {})
        return values if len(values) > 1 else [*completions, *values]
    return completions


def _split_key(text: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in text.split("."))


def _complete_keys(text: str, document: Any) -> list[Completion]:
    """Complete the last part of a key: sections end with a dot, settings with `=`."""
    section, dot, start = text.rpartition(".")
    path = _split_key(section) if dot else ()
    completions = []
    for part in _list_parts(path, document):
        if not part.startswith(start):
            continue
        child_path = (*path, *_split_key(part))
        description = get_first_sentence(find_schema(child_path).get("description", ""))
        is_section = bool(_list_parts(child_path, document))
        if is_section:
            completions.append((f"{format_key_path(child_path)}.", description))
        is_list = isinstance(get_value(child_path, document), list)
        if not is_section or is_list or _accepts_plain_values(child_path):
            completions.append((f"{format_key_path(child_path)}=", description))
    return completions


def _list_parts(path: KeyPath, document: Any) -> list[str]:
    """List the next parts below a key: keys of the schema, or names and positions of the recipe."""
    value = get_value(path, document)
    if isinstance(value, list):
        return [str(position) for position in range(len(value))]
    names = [*value] if isinstance(value, dict) else []
    return list_section_keys(path) or names


def _accepts_plain_values(path: KeyPath) -> bool:
    """Return whether a section may also be a plain value, such as null or the name of a preset."""
    return any(
        member.get("type") not in (None, "object") or "enum" in member
        for member in list_members(find_schema(path))
    )


def _complete_values(path: KeyPath, document: Any, known_values: KnownValues) -> list[Completion]:
    """List `KEY=VALUE` for the values of a key: the allowed ones, else the present one."""
    node = find_schema(path)
    generic = [*map(str, path)]
    if len(path) > 1 and path[0] == "heads":
        generic[1] = HEAD
    list_known = known_values.get(".".join(generic))
    values = [*list_known()] if list_known else []
    for member in list_members(node):
        if member.get("type") == "boolean":
            values += ["true", "false"]
        values += map(
            _format_value, member.get("enum", [member["const"]] if "const" in member else [])
        )
        if member.get("type") == "null":
            values.append("null")
    present = get_value(path, document)
    present = node.get("default") if present is None else present
    if present is not None and not isinstance(present, dict):
        values.append(_format_value(present))
    key, description = format_key_path(path), get_first_sentence(node.get("description", ""))
    return [
        (f"{key}={value}", description) for value in dict.fromkeys(values) if _SAFE.fullmatch(value)
    ]


def _format_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))
