"""Recipes whose splits share images or groups are refused, unless they say that they may."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_tasks.assemble.leak_check import require_no_leaks, require_unseen
from resnet_tasks.assemble.split_files import read_split
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.training.finetune_recipe import finetune_recipe


def write(folder: Path, split: str, *groups: str | None) -> None:
    images = [
        {"id": i, "file_name": f"{split}/{i}.png", "height": 8, "width": 8}
        | ({} if group is None else {"group": group})
        for i, group in enumerate(groups)
    ]
    box = {"category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}
    annotations = [{"id": i + 1, "image_id": i, **box} for i in range(len(groups))]
    categories = [{"id": 1, "name": "cell"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))


def recipe(folder: Path, **data: Any) -> Recipe:
    sources = {split: [{"annotations": f"{split}.json"}] for split in ("train", "val", "test")}
    content = {
        "name": "cells",
        "data": {"root": str(folder), **sources, **data},
        "heads": {"objects": {"type": "faster_rcnn"}},
    }
    return Recipe.model_validate_json(json.dumps(content))


def notes(made: Recipe) -> list[str]:
    return require_no_leaks(made, read_split(made, "train"), read_split(made, "val"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clean splits."""
    for split in ("train", "val", "test"):
        write(tmp_path, split, split, None)
    return tmp_path


def test_clean_splits_are_taken(folder: Path) -> None:
    assert notes(recipe(folder)) == []
    (folder / "test.json").unlink()  # often kept elsewhere until it is judged
    assert notes(recipe(folder)) == []


def test_groups_in_train_and_in_val_or_test_are_refused(folder: Path) -> None:
    write(folder, "train", "p1", "p1", "p2", "p3")
    write(folder, "val", "p1", "p9", "p3")
    write(folder, "test", "p2")
    with pytest.raises(DataError) as error:
        finetune_recipe(recipe(folder), out=folder / "never", console=Console(file=io.StringIO()))
    said = str(error.value)
    assert "recipe cells: data.train and data.val share 2 groups: " in said
    assert "'p1' (2 in train, 1 in val), 'p3' (1 in train, 1 in val)" in said
    assert "data.train and data.test share 1 group: 'p2' (1 in train, 1 in test)" in said
    assert "data.allow_leaks: true" in said
    assert not (folder / "never").exists()
    first, second = notes(recipe(folder, allow_leaks=True))
    assert first.startswith("leak: data.train and data.val share 2 groups")
    assert second.endswith("accepted by data.allow_leaks")


def test_the_same_image_in_two_files_is_refused(folder: Path) -> None:
    same = [{"annotations": "train.json"}]
    with pytest.raises(DataError, match=r"share 1 group: .*; 2 images: .*0\.png"):
        notes(recipe(folder, val=same))
    val = json.loads((folder / "val.json").read_text())
    val["images"][1]["file_name"] = "./train/1.png"
    (folder / "val.json").write_text(json.dumps(val))
    with pytest.raises(DataError, match=r"data\.val share 1 image: .*train/1\.png"):
        notes(recipe(folder))


def test_evaluation_compares_with_what_was_trained_on(folder: Path) -> None:
    write(folder, "test", "train", None)
    made = recipe(folder)
    require_unseen(made, "val", read_split(made, "val"))
    require_unseen(made, "train", read_split(made, "train"))
    with pytest.raises(DataError, match=r"data\.train and data\.test share 1 group: 'train'"):
        require_unseen(made, "test", read_split(made, "test"))
    require_unseen(recipe(folder, allow_leaks=True), "test", read_split(made, "test"))
    test = read_split(made, "test")
    (folder / "train.json").unlink()  # evaluated elsewhere
    require_unseen(made, "test", test)


def test_paths_outside_are_taken_from_sources_that_say_so(folder: Path) -> None:
    val = json.loads((folder / "val.json").read_text())
    val["images"][0]["file_name"] = "../elsewhere/0.png"
    (folder / "val.json").write_text(json.dumps(val))
    with pytest.raises(DataError, match="set `allow_outside: true` next to `annotations:`"):
        read_split(recipe(folder), "val")
    made = recipe(folder, val=[{"annotations": "val.json", "allow_outside": True}])
    assert read_split(made, "val")[0].images[0].file_name == "../elsewhere/0.png"
