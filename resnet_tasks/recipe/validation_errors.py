"""Sentences for validation errors: key, value, allowed values and remedy."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from resnet_tasks.docstrings import get_first_sentence
from resnet_tasks.errors import limit_name
from resnet_tasks.foreign_names import find_keys
from resnet_tasks.options import locate_value
from resnet_tasks.recipe.key_suggestions import suggest_keys
from resnet_tasks.recipe.schema_keys import find_schema, get_json_schema, list_section_keys
from resnet_tasks.recipe.yaml_text import KeyPath, format_key_path
from resnet_tasks.registry import format_suggestions

MAX_QUOTED_CHARS = 60
"""Number of characters of an invalid value that a message quotes."""
MAX_PROBLEMS = 100
"""Number of problems that are described; the suggestions for an unknown key take milliseconds."""


def find_problems(error: ValidationError, document: Any) -> dict[KeyPath, str]:
    """Describe every invalid place of `document` in one sentence, up to `MAX_PROBLEMS`.

    Args:
        error: Error that the validation raised.
        document: Parsed recipe that was validated.

    Returns:
        Key path -> sentence that begins with the key, in the order of the recipe's keys.
    """
    sentences: dict[KeyPath, str] = {}
    for problem in error.errors(include_url=False)[:MAX_PROBLEMS]:
        path, value = locate_value(problem["loc"], document)
        if (
            problem["type"] == "too_short"
            and value
            and problem["ctx"]["actual_length"] < len(value)
        ):
            continue  # pydantic counts valid entries only; invalid ones get their own sentences
        if problem["type"] == "extra_forbidden":
            sentence = _describe_unknown_key(path, document)
        elif problem["type"] == "missing":
            path = (*path, problem["loc"][-1])
            sentence = f"{_format_path(path)} is missing; give {_describe_allowed(path)}"
        elif problem["type"] == "value_error":
            sentence = ": ".join(
                part for part in (_format_path(path), str(problem["ctx"]["error"])) if part
            )
        else:
            location = _format_path(path) or "the recipe"
            sentence = f"{location}: got {quote_value(value)}; allowed is {_describe_allowed(path)}"
            if isinstance(value, str) and list_section_keys(path):
                sentence += format_suggestions(find_keys(format_key_path(path)))
        # Each member of a union reports the same value; the first report is enough.
        sentences.setdefault(path, sentence)
    return sentences


def _describe_unknown_key(path: KeyPath, document: Any) -> str:
    known_keys = ", ".join(list_section_keys(path[:-1]))
    location = f"under {_format_path(path[:-1])!r}" if path[:-1] else "at the top"
    hint = format_suggestions(suggest_keys(path, document))
    return f"unknown key {_format_path(path)!r}; known {location}: {known_keys}{hint}"


def _format_path(path: KeyPath) -> str:
    return limit_name(format_key_path(path))


def quote_value(value: Any) -> str:
    """Return a value as JSON, cut if it is too long for a message."""
    text = "nothing (null)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…"


def _describe_allowed(path: KeyPath) -> str:
    node = find_schema(path)
    choices = node.get("enum", [])
    allowed = get_json_schema().describe(node)
    meaning = get_first_sentence(node.get("description", "")).rstrip(".")
    if "$ref" in node or choices:
        meaning = ""
    return f"{allowed} ({meaning})" if meaning else allowed
