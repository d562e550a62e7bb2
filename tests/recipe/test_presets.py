"""Augmentation by the name of a field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe, recipe_to_yaml
from resnet_tasks.recipe.presets import PRESETS, expand_preset
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.targets import Target

TEXT = """
data:
  root: x
  channels: {channels}
  train: [{{annotations: a.json}}]
  val: [{{annotations: a.json}}]
heads: {{scene: {{type: unet}}}}
augment: {augment}
"""


def written(folder: Path, augment: str, channels: int = 3) -> Path:
    path = folder / "mine.yaml"
    path.write_text(TEXT.format(augment=augment, channels=channels))
    return path


def names(steps: tuple[dict[str, object], ...]) -> list[str]:
    return [name for step in steps for name in step]


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_work_on_any_number_of_channels(preset: str, channels: int) -> None:
    augment = Augmentation(expand_preset(preset, channels), channels)
    rng = np.random.default_rng(0)
    image = rng.random((64, 80, channels), dtype=np.float32)
    target = Target(
        boxes=torch.tensor([[20.0, 20.0, 50.0, 44.0]]),
        labels=torch.tensor([1]),
        ignore=torch.tensor([False]),
        semantic=torch.ones(64, 80, dtype=torch.int64),
    )
    changed = 0
    for seed in range(20):
        made, moved = augment(image, target, seed)
        assert made.shape == image.shape  # shapes stay few
        assert made.dtype == np.float32
        assert 0 <= made.min() <= made.max() <= 1
        assert moved.semantic is not None
        assert set(moved.semantic.unique().tolist()) <= {1, VOID}
        changed += not np.array_equal(made, image)
    assert changed >= 15


def test_fields_keep_what_has_a_meaning_in_them() -> None:
    for channels in (1, 3, 4):
        chest = names(expand_preset("radiology", channels))
        assert not {"HorizontalFlip", "VerticalFlip", "RandomRotate90"} & set(chest)
        assert not {"HueSaturationValue", "ColorJitter"} & set(chest)
        assert "VerticalFlip" not in names(expand_preset("driving", channels))
        assert {"HorizontalFlip", "VerticalFlip"} <= set(
            names(expand_preset("medical_microscopy", channels))
        )
    assert "HueSaturationValue" in names(expand_preset("driving", 3))
    assert "HueSaturationValue" not in names(expand_preset("driving", 4))


def test_a_name_becomes_plain_steps_that_read_back(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "driving", 1))
    assert recipe.augment == expand_preset("driving", 1)
    (tmp_path / "kept.yaml").write_text(recipe_to_yaml(recipe))
    kept = load_recipe(tmp_path / "kept.yaml")
    assert kept == recipe
    listed = load_recipe(written(tmp_path, "[{HorizontalFlip: {p: 0.5}}]"), ["augment=radiology"])
    assert listed.augment == expand_preset("radiology", 3)


def test_resolved_recipes_are_shown_with_their_steps(tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        app, ["recipes", "show", str(written(tmp_path, "radiology")), "--resolved"]
    )
    assert shown.exit_code == 0, shown.output
    assert "RandomGamma" in shown.output
    assert "learning_rate: 0.001" in shown.output


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            "drivin",
            r"'drivin' is not a preset; allowed are medical_microscopy, radiology, dri",
        ),
        ("3", r"augment: got 3; allowed is"),
    ],
)
def test_other_names_are_refused(augment: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(written(tmp_path, augment))
