"""Recipes with random damage: read, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.validation_errors import MAX_PROBLEMS
from resnet_tasks.recipe.yaml_text import MAX_CHARACTERS, MAX_VALUES, parse_yaml
from tests.support.damage import damaged_yaml, outcomes

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


def test_damaged_recipes_are_read_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"

    def loaded(data: bytes) -> None:
        file.write_bytes(data)
        load_recipe(file)

    loaded(RECIPE.encode())
    outcomes(RECIPE.encode(), loaded, damaged_yaml, 60, "recipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#" * 4_000_001, r"mine\.yaml has 4,000,001 characters, more than the limit of 4,000,000"),
        ("#" * 16_000_001, r"mine\.yaml cannot be read: it has more than 16,000,000 bytes"),
        ("[" * 10_000, r"mine\.yaml, line 1, .*: the nesting is more than 30 levels deep"),
        ("a: &a [1]\nb: *a\n", r"mine\.yaml, line 2, .*: the alias \*a is not allowed"),
    ],
)
def test_large_recipes_are_rejected_before_they_are_parsed(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(file)


@pytest.mark.slow
def test_recipes_with_many_keys_are_rejected_in_seconds(tmp_path: Path) -> None:
    """At the limit, YAML is parsed in seconds."""
    keys = "".join(f"{i}: 1\n" for i in range(MAX_VALUES // 2))
    assert len(keys) < MAX_CHARACTERS
    with pytest.raises(RecipeError, match="there are more than 100,000 keys and values"):
        parse_yaml(keys, "keys", number_keys=True)
    last = keys.rindex("\n", 0, -1) + 1
    document = parse_yaml(keys[:last], "keys", number_keys=True)
    assert len(document.value) == MAX_VALUES // 2 - 1


def test_the_first_problems_of_many_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE + "".join(f"key{i}: 1\n" for i in range(200)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    *problems, last = str(caught.value).splitlines()
    assert len(problems) == MAX_PROBLEMS == 100
    assert "unknown key 'key99'" in problems[-1]
    assert last == f"{file}: of 200 problems, the first 100 are listed"
