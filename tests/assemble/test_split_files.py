"""Where a recipe's files are, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_tasks.assemble.split_files import find_recipe_data, read_split
from resnet_tasks.errors import DataError
from tests.support.small_recipes import recipe


def test_missing_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(a={"type": "unet"})
    with pytest.raises(DataError, match=r"resnet-tasks data convert FORMAT DIR .*here` .* or pass"):
        find_recipe_data(made, tmp_path)
    shipped = made.model_copy(update={"name": "bccd_faster_rcnn_resnet18"})
    with pytest.raises(DataError, match="resnet-tasks data prepare here --source DIR --out "):
        find_recipe_data(shipped, tmp_path)
    (tmp_path / "here").mkdir()
    assert find_recipe_data(made, tmp_path) == tmp_path / "here"
    monkeypatch.setenv("RESNET_TASKS_DATA", str(tmp_path))
    assert find_recipe_data(made) == tmp_path / "here"
    with pytest.raises(DataError, match=r"data\.test"):
        read_split(made, "test", tmp_path)
