"""Settings are replaced by key path; the recipe itself stays as it is."""

from __future__ import annotations

import pytest

from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.replace import replace_settings


def test_values_are_replaced_at_any_depth() -> None:
    recipe = load_recipe("quickstart")
    before = recipe.model_dump()
    changed = replace_settings(
        recipe, {"training.seed": 7, "training.epochs": 2, "name": "other", "data.folds": None}
    )
    assert (changed.training.seed, changed.training.epochs, changed.name) == (7, 2, "other")
    assert recipe.model_dump() == before
    expected = {**before, "name": "other", "training": {**before["training"], "seed": 7}}
    expected["training"]["epochs"] = 2
    assert changed.model_dump() == expected
    assert replace_settings(recipe.training, {"seed": 7}).seed == 7


@pytest.mark.parametrize("path", ["sed", "training.sed"])
def test_a_path_must_name_a_setting(path: str) -> None:
    with pytest.raises(AssertionError, match="sed is a setting"):
        replace_settings(load_recipe("quickstart"), {path: 1})
