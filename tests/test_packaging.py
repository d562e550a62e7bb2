"""The built wheel installs two top-level packages, with the recipes inside one of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_inside_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("resnet_tasks", "data_tools", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "-w", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    installed = {path.name for path in (tmp_path / "site").iterdir()}
    assert {name for name in installed if not name.endswith(".dist-info")} == {
        "data_tools",
        "resnet_tasks",
    }
    recipes = tmp_path / "site" / "resnet_tasks" / "shipped_recipes"
    shipped = {path.relative_to(recipes) for path in recipes.rglob("*.yaml")}
    assert shipped == {
        path.relative_to(ROOT / "recipes") for path in ROOT.glob("recipes/**/*.yaml")
    }
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from resnet_tasks.recipe.shipped_recipes import RECIPES, find_recipe; "
        "print(RECIPES); print(find_recipe('quickstart'))"
    )
    (tmp_path / "recipes").mkdir()  # a user's own folder of that name
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines() == [
        str(recipes),
        str(recipes / "quickstart" / "cells_multitask_resnet18.yaml"),
    ]
