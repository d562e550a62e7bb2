"""Run folders that are new, that hold a run, and that hold one that has trained nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.run_directory import RunDirectory
from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.errors import RunError
from resnet_tasks.recipe.load import load_recipe

LABELS = Labels(CategoryMap((Category(1, "granular"),)), {})


@pytest.mark.parametrize("leftover", ["", ".last@a.partial", "last"])
def test_the_same_run_starts_again_in_a_folder_without_checkpoint(
    tmp_path: Path, leftover: str
) -> None:
    """As after a full disk or a kill in the first checkpoint."""
    recipe = load_recipe("quickstart")
    RunDirectory.create(tmp_path, recipe, LABELS)
    (tmp_path / "checkpoints" / leftover).mkdir(parents=True)
    if leftover == ".last@a.partial":
        (tmp_path / "checkpoints" / leftover / "model.safetensors").touch()
    assert RunDirectory.create(tmp_path, recipe, LABELS).recipe == recipe


@pytest.mark.parametrize("name", ["last", "last.previous", "best"])
def test_a_run_with_a_checkpoint_is_to_be_resumed(tmp_path: Path, name: str) -> None:
    recipe = load_recipe("quickstart")
    RunDirectory.create(tmp_path, recipe, LABELS)
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / name / "model.safetensors").touch()
    with pytest.raises(RunError, match=f"contains a run; continue it with `--resume {tmp_path}`"):
        RunDirectory.create(tmp_path, recipe, LABELS)


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    """Another recipe, a log of steps, or a file that is no recipe."""
    recipe = load_recipe("quickstart")
    RunDirectory.create(tmp_path, recipe, LABELS)
    message = r"contains a run that has no checkpoint yet; remove it, or choose another --out"
    with pytest.raises(RunError, match=message):
        RunDirectory.create(tmp_path, load_recipe("quickstart", ["training.seed=7"]), LABELS)
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(RunError, match=message):
        RunDirectory.create(tmp_path, recipe, LABELS)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=message):
        RunDirectory.create(tmp_path, recipe, LABELS)
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == "mine"
