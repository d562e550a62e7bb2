"""Training on tiles from a recipe: told, resumed exactly, judged in windows of the same size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import read_split
from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.errors import RecipeError
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.evaluation import SlidingRecipe
from resnet_tasks.runs.run import load
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.consoles import heard, quiet
from tests.support.interrupting import killed_at
from tests.support.light_run import LIGHT

SETTINGS = (
    *LIGHT,
    "training.epochs=2",
    "training.batch_size=8",
    "training.checkpoint_minutes=0.000001",
    "training.evaluate_every=0",
    "evaluation.resamples=0",
    "data.tiles={height: 64, width: 64, overlap: 0.1, empty: 0.25}",
)


@pytest.fixture(scope="module")
def data(draw_cells: Callable[..., Path]) -> Path:
    return draw_cells(train=4, val=2, size=(128, 160))


@pytest.mark.slow
def test_a_killed_run_on_tiles_resumes_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    recipe, console = load_recipe("quickstart", SETTINGS), quiet()
    made = finetune_recipe(recipe, out=tmp_path / "whole", data_root=data, console=console)
    assert made is not None
    text = heard(console)
    assert "train: 36 tiles of 64 x 64 (width x height)" in text  # 4 images of 3 x 3 tiles
    with killed_at(3):
        finetune_recipe(recipe, out=tmp_path / "parts", data_root=data, console=console)
    again = load_recipe(tmp_path / "parts" / "recipe.yaml")
    finetune_recipe(again, resume=tmp_path / "parts", data_root=data, console=console)
    whole, parts = (
        (tmp_path / each / "checkpoints/last/model.safetensors").read_bytes()
        for each in ("whole", "parts")
    )
    assert whole == parts
    run = load(tmp_path / "whole")
    assert run.recipe.sliding == SlidingRecipe(height=64, width=64, overlap=0.1)
    assert isinstance(run.build_predictor(), SlidingWindowPredictor)
    metrics = json.loads((run.directory / "evaluations/val/metrics.json").read_text())
    assert metrics["windows"]["height"] == 64
    assert metrics["images"] == 2


def test_the_recipe_s_own_windows_come_before_those_of_its_tiles() -> None:
    more = "evaluation.sliding={height: 96, width: 128, overlap: 0.5}"
    assert load_recipe("quickstart", (*SETTINGS, more)).sliding == SlidingRecipe(
        height=96, width=128, overlap=0.5
    )
    assert load_recipe("quickstart", SETTINGS[:-1]).sliding is None


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("data.resize={height: 64, width: 64}", "resize is also set"),
        ("data.tiles.height=100", "a multiple of 32"),
        ("data.tiles.overlap=0.95", "0.9"),
        ("data.tiles.min_visible=2", "1"),
        ("data.max_pixels=0", "data.max_pixels"),
    ],
)
def test_what_does_not_fit_is_told_by_its_key(override: str, text: str) -> None:
    with pytest.raises(RecipeError, match="data") as caught:
        load_recipe("quickstart", (*SETTINGS, override))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        (SETTINGS[-1], "data.tiles"),
        ("evaluation.sliding={height: 64, width: 64}", "evaluation.sliding"),
    ],
)
def test_a_classifier_is_refused_before_training(data: Path, key: str, cause: str) -> None:
    head = "heads.kind={type: classifier}"
    recipe = load_recipe("quickstart", (*SETTINGS[:-1], key, head))
    with pytest.raises(
        RecipeError, match=rf"heads\.kind classifies whole images, .* remove {cause} or"
    ):
        check_recipe(recipe, data)
    labels = build_labels(recipe, read_split(recipe, "train", data)[0].categories)
    with pytest.raises(RecipeError, match=r"heads\.kind classifies whole images"):
        build_model(recipe, labels)
