from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.catalog import load_datasets
from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.shipped_recipes import (
    RECIPES,
    copy_recipe,
    find_recipe,
    list_recipes,
    read_header,
)

SHIPPED = sorted(RECIPES.rglob("*.yaml"))


def test_how_many_recipes_there_are() -> None:
    assert len(SHIPPED) >= 7
    assert {each.path for each in list_recipes()} == set(SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_validates_and_builds(path: Path, tmp_path: Path) -> None:
    told = check_recipe(load_recipe(path), data_root=tmp_path)
    assert told.startswith(f"{path.stem}: resnet")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_header_says_what_data_command_and_result(path: Path) -> None:
    header = "\n".join(read_header(path))
    names = {each.path: each.name for each in list_recipes()}
    assert f"resnet-tasks finetune {names[path]}" in header
    root = load_recipe(path).data.root
    assert f"data prepare {root}" in header or f"DIR data/{root}" in header
    assert "Result:" in header
    known = load_datasets().get(root)
    license_name = (
        "under their own license" if known is None else known.origin.license.split(";")[0]
    )
    assert license_name in header


def test_names() -> None:
    names = [each.name for each in list_recipes()]
    assert names[0] == "quickstart"
    assert "medical/bccd_faster_rcnn_resnet18" in names
    assert find_recipe("quickstart") == find_recipe("quickstart/cells_multitask_resnet18")
    assert find_recipe("driving/camvid_fpn_resnet18").name == "camvid_fpn_resnet18.yaml"


def test_a_folder_of_the_same_name_does_not_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart") in SHIPPED


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("quikstart", "did you mean 'quickstart'?"),
        ("bccd_faster_rcn_resnet18", "did you mean 'medical/bccd_faster_rcnn_resnet18'?"),
        ("medicl/bccd_faster_rcnn_resnet50", "'medical/bccd_faster_rcnn_resnet18'?"),
        ("livecell", "mean 'medical/livecell_faster_rcnn_resnet50' or 'medical/livecell_mask_rcnn"),
        ("zzz", "neither a file nor the name of a shipped recipe; recipes: quickstart, driving/"),
        ("training.epochs=3", "no recipe is given; write the recipe before it"),
        ("../recipes/quickstart/cells_multitask_resnet18", "neither a file"),
    ],
)
def test_unknown_names(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert part in str(caught.value)
    assert repr(name) in str(caught.value)


def test_a_name_without_its_folder_is_enough_if_it_is_unique(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in SHIPPED:
        assert find_recipe(path.stem) == path
        assert find_recipe(path.name) == path
    for folder in ("a", "b"):
        (tmp_path / "shipped" / folder).mkdir(parents=True)
        (tmp_path / "shipped" / folder / "same.yaml").write_text("# Two.\n", encoding="utf-8")
    monkeypatch.setattr("resnet_tasks.recipe.shipped_recipes.RECIPES", tmp_path / "shipped")
    with pytest.raises(RecipeError) as caught:
        find_recipe("same")
    assert str(caught.value) == (
        "several recipes are named 'same'; did you mean 'a/same' or 'b/same'?"
    )
    assert find_recipe("b/same") == tmp_path / "shipped" / "b" / "same.yaml"


def test_a_copy_is_equal_and_never_overwrites(tmp_path: Path) -> None:
    made = copy_recipe("quickstart", tmp_path / "new")
    assert made == tmp_path / "new" / "cells_multitask_resnet18.yaml"
    assert made.read_text("utf-8") == find_recipe("quickstart").read_text("utf-8")
    with pytest.raises(RecipeError, match="already exists"):
        copy_recipe("quickstart", tmp_path / "new")
    assert copy_recipe("quickstart", tmp_path / "my.yaml") == tmp_path / "my.yaml"
