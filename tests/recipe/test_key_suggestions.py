from __future__ import annotations

from typing import Any

import pytest

from resnet_tasks.recipe.key_suggestions import suggest_keys, suggest_override

HEADS = {"cells": {"type": "unet"}, "boxes": {"type": "faster_rcnn"}}


@pytest.mark.parametrize(
    ("path", "value", "suggestions"),
    [
        # Words of other frameworks.
        ("training.lr", 1, ["training.learning_rate"]),
        ("training.batch", 8, ["training.batch_size"]),
        ("training.imgsz", 640, ["data.resize={height: 640, width: 640}"]),
        ("imgsz", "large", ["data.resize={height: VALUE, width: VALUE}"]),
        ("data.path", "x", ["data.root"]),
        ("SOLVER", {"BASE_LR": 0.1}, ["training.learning_rate"]),
        ("SOLVER", {"BASE_LR": 1, "MAX_ITER": 2}, ["training.learning_rate", "training.epochs"]),
        ("model", "yolo", ["backbone.name", "heads.cells.type"]),
        ("model", {"backbone": {"depth": 50}}, ["backbone.name=resnet50"]),
        ("num_classes", 3, ["heads.cells.classes"]),
        ("output_dir", "x", ["--out"]),
        # The same key elsewhere, at any depth.
        ("epochs", 3, ["training.epochs"]),
        ("batch_size", 3, ["training.batch_size"]),
        ("device", "cpu", ["training.device"]),
        ("keep_ratio", True, ["data.resize.keep_ratio"]),
        ("loss_weight", 2, ["heads.cells.loss_weight"]),
        ("training.weights", "x", ["backbone.weights"]),
        # Typing errors.
        ("training.epohs", 3, ["training.epochs"]),
        ("epohs", 3, ["training.epochs"]),
        ("trainng", {"epochs": 3, "lr": 1}, ["training"]),
        ("heads.boxes.tpye", "x", ["heads.boxes.type"]),
        # The head that the key names, and options that the first head may not have.
        ("heads.boxes.lr", 1, ["heads.boxes.lr_scale"]),
        ("conf", 0.5, ["heads.NAME.options.score_threshold"]),
        ("zzz", 1, []),
        ("zzz", {"yyy": {}}, []),
    ],
)
def test_suggestions(path: str, value: Any, suggestions: list[str]) -> None:
    parts = tuple(path.split("."))
    document: dict[str, Any] = {"heads": {name: dict(head) for name, head in HEADS.items()}}
    section = document
    for part in parts[:-1]:
        section = section.setdefault(part, {})
    section[parts[-1]] = value
    assert suggest_keys(parts, document) == suggestions


@pytest.mark.parametrize("heads", [None, [], "x", {}])
def test_a_placeholder_stays_without_heads(heads: Any) -> None:
    document = {"nc": 3, "heads": heads}
    assert suggest_keys(("nc",), document) == ["heads.NAME.classes"]


@pytest.mark.parametrize(
    ("path", "suggestions"),
    [
        (("training", "lr"), ["training.learning_rate"]),
        (("epochs",), ["training.epochs"]),
        (("trainng", "epohs"), ["training.epochs"]),
        (("nc",), ["heads.NAME.classes"]),
        (("xyzzy", "zzz"), []),
    ],
)
def test_a_key_in_no_recipe(path: tuple[str, ...], suggestions: list[str]) -> None:
    assert suggest_keys(path, {}) == suggestions


def test_many_unknown_keys_give_few_suggestions() -> None:
    solver = {f"k{number}": number for number in range(1000)} | {
        "lr": 1,
        "wd": 1,
        "momentum": 1,
        "gamma": 1,
        "milestones": [],
    }
    assert suggest_keys(("solver",), {"solver": solver}) == [
        "training.learning_rate",
        "training.weight_decay",
        "training.momentum",
    ]


@pytest.mark.parametrize(
    ("option", "value", "overrides"),
    [
        ("epochs", "5", ["training.epochs=5"]),
        ("batch", "8", ["training.batch_size=8"]),
        ("lr", "", ["training.learning_rate=VALUE"]),
        ("imgsz", "640", ["data.resize={height: 640, width: 640}"]),
        ("half", "", ["training.precision=fp16"]),
        ("warmup_epochs", "3", ["training.warmup=FRACTION"]),
        ("work_dir", "x", ["--out x"]),
        ("training.epochs", "5", ["training.epochs=5"]),
        ("training", "5", []),
        ("foo", "5", []),
    ],
)
def test_overrides_for_options(option: str, value: str, overrides: list[str]) -> None:
    assert suggest_override(option, value) == overrides
