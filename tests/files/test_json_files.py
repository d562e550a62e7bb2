"""JSON that is nested too deeply is rejected where it is parsed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import (
    MAX_DEPTH,
    read_configuration,
    read_json,
    require_shallow,
)

TEXTS = ("", '"', "\\", '\\"', "[" * 200, "]" * 200, '{"' * 90, '"]', "\\\\[", "漢 é")
"""Texts with characters that could be mistaken for the structure of a file."""


def nest(levels: int, *, objects: bool) -> Any:
    """Return a value with that many levels, each with some text next to the nested value."""
    value: Any = TEXTS[levels % len(TEXTS)]
    for level in range(levels):
        text = TEXTS[level % len(TEXTS)]
        is_object = objects and level % 2 == 1
        value = {text: text, f"{text} ": value} if is_object else [text, value, text]
    return value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("objects", [False, True])
def test_levels_are_counted_outside_strings(encoding: str, objects: bool) -> None:
    for ascii_only in (False, True):
        shallow = json.dumps(nest(MAX_DEPTH, objects=objects), ensure_ascii=ascii_only)
        require_shallow(shallow.encode(encoding))
        require_shallow(shallow)
        deep = json.dumps(nest(MAX_DEPTH + 1, objects=objects), ensure_ascii=ascii_only)
        for content in (deep, deep.encode(encoding)):
            with pytest.raises(RecursionError, match="nested more than 100 levels deep"):
                require_shallow(content)


def test_long_flat_lists_are_shallow() -> None:
    require_shallow(json.dumps([{"bbox": [1, 2, 3, 4]}] * 1000))


@pytest.mark.parametrize("levels", [101, 900, 100_000])
def test_nested_files_are_named(levels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * levels + "]" * levels)
    with pytest.raises(DataError, match=r"a\.json cannot be read: its values are nested more than"):
        read_json(path)


@pytest.mark.parametrize("text", ["[1, {}]", '{{"a": -{}}}'])
def test_numbers_of_thousands_of_digits_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text.format("1" * 5000))
    with pytest.raises(DataError) as caught:
        read_json(path)
    reason = "it has a number of more than 4,300 digits"
    assert str(caught.value) == f"{path} cannot be read: {reason}; is it the right file?"
    path.write_text(text.format("1" * 4000))
    read_json(path)


def test_configurations_are_optional_but_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert read_configuration(path) == {}
    path.write_text('{"mean": [0.5]}')
    assert read_configuration(path) == {"mean": [0.5]}
    for text, reason in (("[1]", "must contain a JSON object"), ('{"a"', "is not JSON")):
        path.write_text(text)
        with pytest.raises(DataError, match=rf"config\.json {reason}"):
            read_configuration(path)
