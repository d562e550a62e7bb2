"""Names of 100,000 characters in files: the output of commands stays short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resnet_tasks.cli import app
from tests.support.coco_contents import build_results, build_truth

LENGTH = 100_000
MOST_BYTES = 20_000


def _run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert len(result.output.encode()) < MOST_BYTES
    return result.output


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f"? {'k' * LENGTH}\n: 1\n", ()),
        (f"training:\n  ? {'k' * LENGTH}\n  : 1\n", ()),
        (f"heads:\n  ? {'k' * LENGTH}\n  : {{type: unet, wrong: 1}}\n", ()),
        ("training: {epochs: 2}\n", (f"training.{'k' * LENGTH}=1",)),
        ("training: {epochs: 2}\n", (f"heads.{'k' * LENGTH}.type=unet",)),
        ("training: {epochs: 2}\n", ("k" * LENGTH,)),
    ],
    ids=["top", "section", "head", "override", "head-override", "no-override"],
)
def test_keys_of_recipes(text: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert "error:" in _run("finetune", recipe, "--dry-run", *overrides)
    (tmp_path / "labels.json").write_text("{}")
    _run("report", tmp_path)


def _rename_image(truth: dict[str, Any], name: str) -> None:
    truth["images"][0]["id"] = name
    for entry in truth["annotations"]:
        entry["image_id"] = name


CHANGES: dict[str, Callable[[dict[str, Any], str], object]] = {
    "class": lambda truth, name: truth["categories"][0].update(name=name),
    "category": lambda truth, name: truth["categories"][0].update(id=name),
    "file": lambda truth, name: truth["images"][0].update(file_name=f"{name}.png"),
    "map": lambda truth, name: truth["images"][0].update(sem_seg_file_name=f"{name}.png"),
    "image": _rename_image,
    "dangling": lambda truth, name: truth["annotations"][0].update(image_id=name),
    "annotation": lambda truth, name: [a.update(id=name) for a in truth["annotations"]],
}
"""Place of a name in the ground truth -> function that changes it."""


@pytest.mark.parametrize("letter", ["7", "ab "])
@pytest.mark.parametrize("place", [*CHANGES, "image_id", "category_id"])
def test_names_in_annotations_and_results(place: str, letter: str, tmp_path: Path) -> None:
    truth, results = build_truth(), build_results()
    name = letter * (LENGTH // len(letter))
    if place in CHANGES:
        CHANGES[place](truth, name)
    else:
        for entry in results:
            entry[place] = name
    files = tmp_path / "truth.json", tmp_path / "results.json"
    for file, content in zip(files, (truth, results), strict=True):
        file.write_text(json.dumps(content))
    sources = ("--truth", files[0], "--results", files[1])
    _run("evaluate", *sources)
    _run("evaluate", *sources, "--task", "mask")
    _run("evaluate", *sources, "--by", "image:color")
    _run("evaluate", "--truth", files[0], "--results", tmp_path, "--task", "semantic")
    _run("data", "check", files[0])
    _run("data", "stats", files[0])
