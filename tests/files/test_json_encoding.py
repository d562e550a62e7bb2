"""What the package writes is JSON, also where a number is not finite."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_tasks.files.atomic import json_text, write_json
from resnet_tasks.files.json_encoding import encode_json
from tests.support.json_files import require_json
from tests.support.paths import ROOT

VALUES = {
    "losses": [1.5, math.nan, (math.inf, -math.inf)],
    "head": {"numpy": np.float64("nan"), "count": 3, "name": "NaN", "none": None, "yes": True},
}
WRITTEN = {
    "losses": [1.5, None, [None, None]],
    "head": {"numpy": None, "count": 3, "name": "NaN", "none": None, "yes": True},
}

OTHER_ENCODERS = {
    "data_tools/catalog.py": "parsed at once",
    "data_tools/layouts.py": "a message",
    "resnet_tasks/data/coco/packed/annotation_packer.py": "a column of the cache",
    "resnet_tasks/data/coco/packed/images.py": "a column of the cache",
    "resnet_tasks/data/coco/packed/string_columns.py": "a column of the cache",
    "resnet_tasks/files/mapped_columns.py": "header of a binary file of the cache",
    "resnet_tasks/option_help.py": "a message",
    "resnet_tasks/recipe/key_completion.py": "a suggestion for the command line",
    "resnet_tasks/recipe/load.py": "parsed at once",
    "resnet_tasks/recipe/validation_errors.py": "a message",
    "resnet_tasks/recipe/yaml_text.py": "YAML",
    "resnet_tasks/report/comparison.py": "compared as text",
}
"""Modules that call `json.dumps` for anything but a JSON file, and what for."""


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    for text in (encode_json(VALUES), json_text(VALUES), encode_json(VALUES, indent=1)):
        require_json(text)
        assert json.loads(text) == WRITTEN
    write_json(tmp_path / "a.json", VALUES)
    assert json.loads((tmp_path / "a.json").read_text()) == WRITTEN
    assert encode_json(math.nan) == "null"
    assert json.loads(encode_json({math.inf: 1, 2: math.nan})) == {"inf": 1, "2": None}


@pytest.mark.parametrize("value", [WRITTEN, [], "\u00e9\ud800", 1e308, 5, {"b": 1, "a": [2]}])
def test_finite_values_are_encoded_as_by_python(value: Any) -> None:
    assert encode_json(value) == json.dumps(value)
    assert encode_json(value, indent=2, ensure_ascii=False, sort_keys=True) == json.dumps(
        value, indent=2, ensure_ascii=False, sort_keys=True
    )


def test_other_values_are_rejected_as_by_python() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode_json({"nan": math.nan, "path": Path()})


def test_there_is_one_encoder() -> None:
    """A second one could write `NaN`."""
    callers = set()
    for package in ("resnet_tasks", "data_tools"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                    *("json.dump", "json.dumps", "json.JSONEncoder", "msgspec.json.encode"),
                ):
                    callers.add(path.relative_to(ROOT).as_posix())
    assert callers - {"resnet_tasks/files/json_encoding.py"} == set(OTHER_ENCODERS)
