"""Every name that the tables suggest exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.cli import app
from resnet_tasks.cli.assistance.suggestions import list_placeholders
from resnet_tasks.foreign_names import (
    COMMANDS,
    HEAD,
    KEYS,
    OPTIONS,
    SUBCOMMANDS,
    VALUE,
    find_keys,
    normalize_name,
)
from resnet_tasks.heads.base import HEADS
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema_keys import find_schema, iter_key_paths
from resnet_tasks.recipe.yaml_text import format_key_path

ROOT = typer.main.get_command(app)
KEY_TARGETS = sorted({target for targets in KEYS.values() for target in targets})


def commands(group: Any = ROOT, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")


ALL_COMMANDS = dict(commands())
OPTIONS_OF = {
    name: {text for param in command.params for text in param.opts}
    for name, command in [*ALL_COMMANDS.items(), ("", ROOT)]
}


def exists(key: str) -> bool:
    """Whether a key is in the schema; below `options`, whether a built-in head has it."""
    assert BUILT_IN_HEADS
    path, _, option = key.partition(".options.")
    if option:
        return find_schema(tuple(path.split("."))) != {} and any(
            option in HEADS.get(name).Options.model_fields for name in HEADS
        )
    return find_schema(tuple(int(p) if p.isdigit() else p for p in key.split("."))) != {}


def test_a_key_that_does_not_exist_is_noticed() -> None:
    assert exists("training.epochs")
    assert exists("heads.NAME.type")
    assert exists("data.train.0.images")
    assert exists("heads.NAME.options.nms_iou")
    assert not exists("training.lr")
    assert not exists("heads.NAME.lr")
    assert not exists("heads.NAME.options.nms")


@pytest.mark.parametrize("target", KEY_TARGETS)
def test_every_suggested_key_exists(target: str) -> None:
    if target.startswith("--"):
        assert target in OPTIONS_OF["finetune"]
        return
    key, _, value = target.partition("=")
    assert exists(key)
    filled = value.replace(f"resnet{VALUE}", "resnet50").replace(VALUE, "64")
    if value and not filled.isupper():
        load_recipe("quickstart", [f"{key}={filled}"])


def test_words_for_keys_are_not_keys_themselves() -> None:
    assert all(normalize_name(word) == word for word in KEYS)
    paths = {format_key_path(path) for path in iter_key_paths()}
    assert not paths.intersection(word for word in KEYS if "." in word)
    # At another place these are keys too, but what other frameworks mean by them is more likely.
    names = {str(path[-1]) for path in iter_key_paths()}
    assert names.intersection(KEYS) == {"data", "backbone", "epoch", "freeze", "head"}


@pytest.mark.parametrize(
    ("word", "target"),
    [
        # Ultralytics
        ("lr0", "training.learning_rate"),
        ("batch", "training.batch_size"),
        ("imgsz", "data.resize={height: VALUE, width: VALUE}"),
        ("workers", None),
        ("pretrained", "backbone.weights"),
        ("cos_lr", "training.schedule=cosine"),
        # Detectron2, MMDetection
        ("SOLVER.BASE_LR", "training.learning_rate"),
        ("SOLVER.IMS_PER_BATCH", "training.batch_size"),
        ("SOLVER.AMP.ENABLED", "training.precision"),
        ("train_cfg.max_epochs", "training.epochs"),
        ("val_dataloader.batch_size", "evaluation.batch_size"),
        # smp, Lightning, transformers
        ("encoder_weights", "backbone.weights"),
        ("accumulate_grad_batches", "training.accumulation"),
        ("gradient-clip-val", "training.clip_norm"),
        ("num_train_epochs", "training.epochs"),
        ("heads.NAME.lr", f"heads.{HEAD}.lr_scale"),
    ],
)
def test_words_of_other_frameworks(word: str, target: str | None) -> None:
    assert find_keys(word) == (() if target is None else (target,))


def test_every_suggested_command_exists() -> None:
    assert not set(COMMANDS).intersection(ROOT.commands)  # type: ignore[attr-defined]
    tables = [
        ("", COMMANDS),
        *((f"{group} ", words) for group, words in SUBCOMMANDS.items()),
    ]
    for prefix, table in tables:
        assert all(normalize_name(word) == word for word in table)
        for word, targets in table.items():
            for target in targets:
                name, _, option = f"{prefix}{target}".partition("--")
                assert name.strip() in {*ALL_COMMANDS, ""}, f"{word}: {target}"
                assert not option or f"--{option}" in {*OPTIONS_OF[name.strip()], "--help"}


def test_every_suggested_option_exists() -> None:
    options = set().union(*OPTIONS_OF.values())
    placeholders = {
        word
        for command in ALL_COMMANDS.values()
        for param in command.params
        if not any(text.startswith("-") for text in param.opts)
        for word in list_placeholders(param)
    }
    for word, targets in OPTIONS.items():
        assert re.fullmatch("[a-z_]+", word)
        for target in targets:
            if target.startswith("-"):
                assert target in options, f"{word}: {target}"
            elif target.isupper():
                assert target in placeholders, f"{word}: {target}"
            else:
                assert exists(target), f"{word}: {target}"
