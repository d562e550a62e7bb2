"""Class weights by name: measured on the training data, kept in the run, the same on resume."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.runs.run import Run
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.half_bright import write_recipe, write_split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images with a square of class a in a quarter of each, one of b in one of them."""
    torch.set_num_threads(1)
    folder = tmp_path / "data"
    first = (1, 0.0, 0.0, 0.5, 0.5)
    images = {"0": (first, (2, 0.5, 0.5, 1.0, 1.0)), **dict.fromkeys("123", (first,))}
    write_split(folder / "a.json", images, size=(64, 64), categories="ab")
    return folder


def recipe(data: Path, weights: str) -> Recipe:
    path = write_recipe(
        data.parent / "mine.yaml", data, training={"epochs": 1}, evaluation={"resamples": 0}
    )
    return load_recipe(path, [f"heads.scene.options.class_weights={weights}"])


def test_numbers_are_in_the_run(data: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    made = recipe(data, "balanced")
    run = finetune_recipe(made, out=tmp_path / "run", console=Console(file=said, width=300))
    assert run is not None
    kept = load_recipe(tmp_path / "run/recipe.yaml").heads["scene"].options["class_weights"]
    # Of 16 quarters 11 are background, 4 are a, 1 is b: weights as 1/11 : 1/4 : 1, mean 1.
    total = 1 / 11 + 1 / 4 + 1
    expected = {"background": 3 / 11 / total, "a": 3 / 4 / total, "b": 3 / total}
    assert kept == pytest.approx(expected, rel=1e-5)
    assert "heads.scene: class_weights balanced: background 0.203" in said.getvalue()
    again = Run.open(tmp_path / "run").recipe.heads["scene"].options["class_weights"]
    assert again == kept


def test_dry_run_measures_nothing(data: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    made = recipe(data, "median_frequency")
    finetune_recipe(made, dry_run=True, console=Console(file=said, width=300))
    assert "class_weights: measured when training starts" in said.getvalue()
    assert "unet" in check_recipe(made)


def test_unknown_ways_are_refused(data: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"'balanse' is not a class weighting.* did you mean 'balanced'"
    ):
        check_recipe(recipe(data, "balanse"))
