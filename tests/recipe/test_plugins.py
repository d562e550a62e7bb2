from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.plugins import copy_plugins, load_plugins, run_plugins

RECIPE = """\
plugins: [mine.py]
data: {root: x, train: [{annotations: a.json}], val: [{annotations: a.json}]}
heads: {a: {type: unet}}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    trace = tmp_path / "trace.txt"
    code = f"with open({str(trace)!r}, 'a') as file:\n    file.write('ran ')\n"
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    return path


def test_reading_runs_nothing(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert recipe.plugins == (str(recipe_file.parent / "mine.py"),)
    assert not (recipe_file.parent / "trace.txt").exists()


def test_nothing_runs_without_trust(recipe_file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_plugins(load_recipe(recipe_file), trust=False)
    assert "needs to run this code" in str(caught.value)
    assert str(recipe_file.parent / "mine.py") in str(caught.value)
    assert "--trust-plugins" in str(caught.value)
    assert not (recipe_file.parent / "trace.txt").exists()


def test_a_trusted_plugin_runs_once(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, trust_plugins=True)
    load_plugins(recipe, trust=True)
    assert (recipe_file.parent / "trace.txt").read_text("utf-8") == "ran "


def test_a_missing_plugin_is_named(recipe_file: Path) -> None:
    (recipe_file.parent / "mine.py").unlink()
    with pytest.raises(RecipeError, match=r"mine\.py does not exist"):
        load_recipe(recipe_file, trust_plugins=True)


def test_a_failing_plugin_is_named_with_its_line(recipe_file: Path) -> None:
    (recipe_file.parent / "mine.py").write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"mine\.py:2 with ZeroDivisionError: division by zero"):
        load_recipe(recipe_file, trust_plugins=True)


def test_a_module_that_is_not_installed_is_named(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="plugin no_such_module_here failed"):
        load_recipe(recipe_file, ["plugins=[no_such_module_here]"], trust_plugins=True)


def test_copies_and_imported_modules_count_as_the_same_plugin(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = recipe_file.parent, recipe_file.parent / "trace.txt"
    copied = copy_plugins((str(folder / "mine.py"), "json"), folder / "run")
    assert copied == ("plugins/0_mine.py", "json")
    again = copy_plugins((str(folder / "run" / copied[0]),), folder / "export")
    assert again == copied[:1]
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    for place in ("run", "export"):
        run_plugins(again, folder / place)
    assert trace.read_text("utf-8") == "ran "
    monkeypatch.delitem(sys.modules, "mine")
    for place in ("run", "export"):
        run_plugins(again, folder / place)
    assert trace.read_text("utf-8") == "ran ran "
    code = (folder / "mine.py").read_text("utf-8")
    (folder / "run" / copied[0]).write_text(code + "\n# changed\n", encoding="utf-8")
    run_plugins(copied, folder / "run")
    assert trace.read_text("utf-8") == "ran ran ran "
