"""Class weights by name: measured on the training data, kept in the run, the same on resume."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from resnet_tasks.assemble.check import check_recipe
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.training.from_recipe import finetune_recipe
from resnet_tasks.training.run import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four pictures with a square of class a in a quarter of each, one of b in one of them."""
    torch.set_num_threads(1)
    folder = tmp_path / "data"
    folder.mkdir()
    images, annotations = [], []
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        squares = [(1, 0, 32)] + ([(2, 32, 64)] if i == 0 else [])
        for category, low, high in squares:
            outline = [[low, low, high, low, high, high, low, high]]
            found = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
            box = {"bbox": [low, low, 32, 32], "area": 1024, "iscrowd": 0}
            annotations.append({**found, **box, "segmentation": outline})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (folder / "all.json").write_text(json.dumps(content))
    return folder


def recipe(data: Path, weights: str) -> Recipe:
    path = data.parent / "mine.yaml"
    path.write_text(
        f"""
data:
  root: {data}
  train: [{{annotations: all.json}}]
  val: [{{annotations: all.json}}]
  allow_leaks: true
backbone: {{name: test_resnet, weights: none}}
heads:
  scene:
    type: unet
    background: true
    options: {{decoder_channels: [16, 8, 8, 8, 8], class_weights: {weights}}}
training: {{epochs: 1, batch_size: 2, precision: fp32, device: cpu}}
evaluation: {{resamples: 0}}
"""
    )
    return load_recipe(path)


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
    with pytest.raises(RecipeError, match=r"'balanse' is no way .* did you mean 'balanced'"):
        check_recipe(recipe(data, "balanse"))
