"""Recipes with random damage: read, or refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_tasks.recipe.load import load_recipe
from tests.support.damage import FULL, MANY, damaged_yaml, outcomes, told

RECIPE = """\
data:
  root: cells
  train: [{annotations: train.json, weight: 2}]
  val: [{annotations: val.json}]
  resize: {height: 64, width: 96}
  channels: 3
backbone: {name: resnet18, weights: none, frozen_stages: 0}
heads:
  cells: {type: unet, loss_weight: 0.5, options: {dropout: 0.1}}
augment: [{HorizontalFlip: {p: 0.5}}]
training: {epochs: 3, learning_rate: 1e-3, steps: [0.5, 0.9]}
"""


@pytest.mark.parametrize("cases", [60, pytest.param(MANY, marks=FULL)])
def test_damaged_recipes_are_read_or_refused(
    cases: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    file = tmp_path / "mine.yaml"

    def loaded(data: bytes) -> None:
        file.write_bytes(data)
        load_recipe(file)

    loaded(RECIPE.encode())
    found = outcomes(RECIPE.encode(), loaded, damaged_yaml, cases, "recipe")
    if cases == MANY:
        tell(told("recipes", found))
