from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.recipe.key_completion import complete_assignment
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema_keys import iter_key_paths
from resnet_tasks.recipe.yaml_text import format_key_path

DOCUMENT = {
    "data": {"root": "cells", "train": [{"annotations": "a.json"}], "val": [{}, {}]},
    "heads": {
        "cells": {"type": "unet", "options": {"channels": [8, 16], "dropout": 0.1}},
        "boxes": {"type": "faster_rcnn"},
    },
    "training": {"learning_rate": 0.002},
}


def complete(text: str, document: Any = DOCUMENT) -> list[str]:
    values = {"backbone.name": lambda: ["resnet18", "resnet50"], "heads.NAME.type": lambda: ["fpn"]}
    return [completion for completion, _ in complete_assignment(text, document, values)]


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        # A single key comes with its values, so that the shell adds no space after `=`.
        ("training.le", ["training.learning_rate=", "training.learning_rate=0.002"]),
        ("training.epo", ["training.epochs=", "training.epochs=30"]),
        ("training.opt", ["training.optimizer=adamw", "training.optimizer=sgd"]),
        ("training.optimizer=s", ["training.optimizer=sgd"]),
        ("training.optimizer=x", []),
        ("training.determ", ["training.deterministic=true", "training.deterministic=false"]),
        ("training.steps=", ["training.steps=[0.67,0.92]"]),
        ("data.cache=", ["data.cache=true", "data.cache=false", "data.cache=auto"]),
        ("backbone.nam", ["backbone.name=resnet18", "backbone.name=resnet50"]),
        ("backbone.name=resnet5", ["backbone.name=resnet50"]),
        # Sections, list positions and heads.
        ("data.val.", ["data.val.0.", "data.val.1."]),
        ("data.val", ["data.val.", "data.val="]),
        ("data.train.0.im", ["data.train.0.images=null"]),
        ("heads.", ["heads.cells.", "heads.boxes."]),
        ("heads.boxes.type=", ["heads.boxes.type=fpn", "heads.boxes.type=faster_rcnn"]),
        (
            "heads.cells.options.d",
            ["heads.cells.options.dropout=", "heads.cells.options.dropout=0.1"],
        ),
        (
            "heads.cells.options.c",
            ["heads.cells.options.channels.", "heads.cells.options.channels="],
        ),
        ("data.resize=", ["data.resize=null"]),
        ("augment=r", ["augment=radiology"]),
        # Nothing fits.
        ("zzz", []),
        ("zzz.a", []),
        ("training.epochs.x", []),
        ("data.train.7.wei", ["data.train.7.weight=", "data.train.7.weight=1.0"]),
        (".", []),
        ("=", []),
    ],
)
def test_completions(text: str, completions: list[str]) -> None:
    if text == "data.train.0.im":
        completions = ["data.train.0.images=", *completions]
    assert complete(text) == completions


def test_a_section_is_replaced_by_its_keys() -> None:
    assert complete("tr") == complete("training.")
    assert "training.epochs=" in complete("tr")
    top = complete("")
    assert {"training.", "data.", "backbone.", "name="} <= set(top)
    assert "training.epochs=" not in top


@pytest.mark.parametrize("document", [{}, None, [1], "x", {"heads": None}, {"data": [3]}])
def test_documents_that_are_no_recipe(document: Any) -> None:
    assert "training.epochs=30" in complete("training.epo", document)
    assert complete("heads.cells.ty", document) == ["heads.cells.type=", "heads.cells.type=fpn"]


def test_every_key_of_the_schema_is_completed_and_every_value_is_valid() -> None:
    document = {
        "data": {"train": [{}], "val": [{}], "test": [{}]},
        "heads": {"NAME": {}},
        "combine": {"NAME": {}},
    }
    for path in iter_key_paths():
        if 0 in path[2:] and path[:2] != ("data", "train") and path[0] == "training":
            continue  # positions of lists that the recipe does not have
        key = format_key_path(path)
        offered = complete(key, document)
        assert any(text.startswith((f"{key}=", f"{key}.")) for text in offered), key
    for text in ("training.", "evaluation."):
        for completion in complete(text, document):
            key, equals, _ = completion.partition("=")
            for value in complete(f"{key}=") if equals else []:
                load_recipe("quickstart", [value])
