"""Sentences for validation errors: key, value, allowed values and remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError

from resnet_tasks.docstrings import get_first_sentence
from resnet_tasks.json_schema import JsonSchema, Schema
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.yaml_text import KeyPath, format_key_path
from resnet_tasks.registry import find_nearest

MAX_QUOTED_CHARS = 60
"""Number of characters of an invalid value that a message quotes."""


def find_problems(error: ValidationError, document: Any) -> dict[KeyPath, str]:
    """Describe every invalid place of `document` in one sentence.

    Args:
        error: Error that the validation raised.
        document: Parsed recipe that was validated.

    Returns:
        Key path -> sentence that begins with the key, in the order of the recipe's keys.
    """
    sentences: dict[KeyPath, str] = {}
    for problem in error.errors(include_url=False):
        path, value = _locate(problem["loc"], document)
        if (
            problem["type"] == "too_short"
            and value
            and problem["ctx"]["actual_length"] < len(value)
        ):
            continue  # pydantic counts valid entries only; invalid ones get their own sentences
        if problem["type"] == "extra_forbidden":
            sentence = _describe_unknown_key(path)
        elif problem["type"] == "missing":
            path = (*path, problem["loc"][-1])
            sentence = f"{format_key_path(path)} is missing; give {_describe_allowed(path)}"
        elif problem["type"] == "value_error":
            sentence = ": ".join(
                part for part in (format_key_path(path), str(problem["ctx"]["error"])) if part
            )
        else:
            location = format_key_path(path) or "the recipe"
            sentence = f"{location}: got {_quote(value)}; allowed is {_describe_allowed(path)}"
        # Each member of a union reports the same value; the first report is enough.
        sentences.setdefault(path, sentence)
    return sentences


@cache
def get_json_schema() -> Schema:
    """Return the JSON schema of a recipe."""
    return Recipe.model_json_schema()


def _locate(loc: KeyPath, document: Any) -> tuple[KeyPath, Any]:
    """Return the part of `loc` inside the document, without union members, and the value there."""
    path: KeyPath = ()
    value = document
    for part in loc:
        if isinstance(value, dict):
            inside = part in value
        else:
            inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside:
            value = value[part]
            path = (*path, part)
    return path, value


RENAMED_KEYS = {
    "data.bad_pictures": "data.unreadable_images",
    "data.bad_pictures_limit": "data.unreadable_images_limit",
    "data.copy_paste.share": "data.copy_paste.fraction",
}
"""Keys of earlier versions -> the keys that replace them; the names are too far apart to guess."""


def _describe_unknown_key(path: KeyPath) -> str:
    known_keys = [
        key
        for member in _list_members(_find_schema(path[:-1]))
        for key in member.get("properties", {})
    ]
    key = str(path[-1])
    close = find_nearest(key, known_keys)
    elsewhere = [format_key_path(key_path) for key_path in _iter_key_paths() if key_path[-1] == key]
    location = f"under {format_key_path(path[:-1])!r}" if path[:-1] else "at the top"
    hint = ""
    renamed = RENAMED_KEYS.get(format_key_path(path))
    if renamed:
        hint = f"; it is now called {renamed!r}"
    elif close:
        hint = f"; did you mean {format_key_path((*path[:-1], close))!r}?"
    elif elsewhere:
        hint = f"; did you mean {elsewhere[0]!r}?"
    return f"unknown key {format_key_path(path)!r}; known {location}: {', '.join(known_keys)}{hint}"


def _iter_key_paths() -> Iterator[KeyPath]:
    for name, field in get_json_schema()["properties"].items():
        yield (name,)
        for key in _resolve(field).get("properties", {}):
            yield (name, key)


def _quote(value: Any) -> str:
    text = "nothing (null)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"


def _describe_allowed(path: KeyPath) -> str:
    node = _find_schema(path)
    choices = node.get("enum", [])
    allowed = JsonSchema(get_json_schema()).describe(node)
    meaning = get_first_sentence(node.get("description", "")).rstrip(".")
    if "$ref" in node or choices:
        meaning = ""
    return f"{allowed} ({meaning})" if meaning else allowed


def _find_schema(path: KeyPath) -> Schema:
    """Find the schema node of a key path; an empty one below free-form options."""
    return JsonSchema(get_json_schema()).find(path)


def _list_members(node: Schema) -> list[Schema]:
    return JsonSchema(get_json_schema()).list_members(node)


def _resolve(node: Schema) -> Schema:
    return JsonSchema(get_json_schema()).resolve(node)
