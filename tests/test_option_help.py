"""Listings of options at any width."""

from __future__ import annotations

import pytest

from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.option_help import (
    OptionHelp,
    format_options,
    format_rows,
    format_value,
    list_options,
    matches,
)
from resnet_tasks.recipe.yaml_text import parse_yaml

LONG = "Number of things. " + "It is a very long story. " * 20
OPTIONS = [
    OptionHelp("short", "First meaning.", "a number", "0.5", is_required=False),
    OptionHelp("a_name_that_is_longer_than_the_first_column", LONG, "text", None, is_required=True),
]


@pytest.mark.parametrize("width", [20, 80, 160])
def test_names_are_never_cut_and_lines_fit(width: int) -> None:
    lines = format_options(OPTIONS, width).splitlines()
    assert any(line.split() == [OPTIONS[1].name] for line in lines)
    assert any(line.startswith("  short  First") for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "[a number; default: 0.5]" in text
    assert "[text; required]" in text
    assert "Number of things." in text
    assert "story" not in text  # long descriptions are cut to their first sentence
    if width >= 80:
        assert max(map(len, lines)) <= min(width, 100)


def test_the_short_form_has_no_values() -> None:
    assert "[" not in format_options(OPTIONS, 80, is_short=True)


def test_rows_without_text_or_without_rows() -> None:
    assert format_rows([], 80) == ""
    assert format_rows([("alone", []), ("b", ["text"])], 80) == "  alone\n  b      text"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 1e-4, 0.5, "word", "", "null", "No", "on", "1e-4", "0x1f", "a: b"),
        *("two words", [1, "b", ["c d"]], {"a b": {"c": None}}, [], {}, "ä", "'", "-", "a,b", "#"),
        *(["a, b"], "labels/{split}.json", "http://a/b", "x" * 500, "line\nbreak", "@a", "*a"),
    ],
)
def test_values_are_written_as_yaml_in_one_line(value: object) -> None:
    text = format_value(value)
    assert "\n" not in text
    assert parse_yaml(f"key: {text}", "test").value == {"key": value}


def test_options_of_inner_sections_follow_their_owner() -> None:
    size = {"type": "integer", "description": "Size.", "default": 3}
    inner = {"type": "object", "properties": {"size": size}, "required": []}
    root = {
        "properties": {
            "plain": {"type": "string"},
            "inner": {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}], "default": None},
            "many": {"type": "array", "items": {"$ref": "#/$defs/Inner"}},
            "named": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Inner"}},
        },
        "required": ["plain"],
        "$defs": {"Inner": inner},
    }
    options = {option.name: option for option in list_options(JsonSchema(root))}
    assert list(options) == [
        *("plain", "inner", "inner.size", "many", "many.N.size", "named", "named.NAME.size")
    ]
    assert options["plain"].is_required
    assert (options["inner"].default, options["inner.size"].default) == ("null", "3")


@pytest.mark.parametrize(
    ("name", "key", "expected"),
    [
        ("data.train.N.images", "data.train.0.images", True),
        ("data.train.N.images", "data.train", True),
        ("data.train.N.images", "data.train.x", False),
        ("heads.NAME.type", "heads.cells", True),
        ("data.root", "data.roo", False),
        ("data", "data.root", False),
    ],
)
def test_key_paths_match(name: str, key: str, expected: bool) -> None:
    assert matches(name, key) is expected
