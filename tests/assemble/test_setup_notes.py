"""Notes at the start of a training: short for any number of classes, complete for a few."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.assemble.training_setup import TrainingSetup
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from tests.support.consoles import heard, quiet
from tests.support.half_bright import write_recipe
from tests.support.many_classes import class_names, write_dataset

FASTER_RCNN = "{type: faster_rcnn, options: {pyramid_channels: 32, box_head_channels: 32}}"


def written_recipe(folder: Path, number: int) -> Recipe:
    torch.set_num_threads(1)
    write_dataset(folder / "data", number)
    path = write_recipe(
        folder / "mine.yaml",
        folder / "data",
        data={"train": [{"annotations": "train.json"}], "val": [{"annotations": "val.json"}]},
    )
    changes = ("heads.scene.options.class_weights=inverse_sqrt", f"heads.objects={FASTER_RCNN}")
    return load_recipe(path, changes)


def start_up(recipe: Recipe) -> list[str]:
    console = quiet(80)
    TrainingSetup.from_recipe(recipe, console=console)
    return heard(console).splitlines()


@pytest.mark.parametrize("number", [80, 1200])
def test_many_classes_take_less_than_15_lines(tmp_path: Path, number: int) -> None:
    lines = start_up(written_recipe(tmp_path, number))
    assert len(lines) < 15
    text = " ".join(" ".join(lines).split())
    for split in ("train", "val"):
        assert f"{split}: 12 images; objects: 24 in " in text
    assert f" of {number} classes; most: " in text
    assert "all counts: report of the run, or `resnet-tasks data stats FILE --json OUT`" in text
    assert "heads.scene: class_weights inverse_sqrt: highest: " in text
    assert "all in the run's recipe.yaml" in text


def test_three_classes_are_all_counted(tmp_path: Path) -> None:
    lines = start_up(written_recipe(tmp_path, 3))
    text = " ".join(" ".join(lines).split())
    names = class_names(3)
    for name in names:
        assert text.count(f"{name} ") == 3, "in train, in val, and among the weights"
    assert "all counts" not in text


def test_mixed_bit_depths_of_the_splits_are_a_warning(tmp_path: Path) -> None:
    recipe = written_recipe(tmp_path, 3)
    assert "bit depths" not in " ".join(start_up(recipe))
    file = tmp_path / "data" / "val.json"
    records = json.loads(file.read_text(encoding="utf-8"))
    for record in records["images"]:
        record["attributes"] = {"bits_stored": 12}
    file.write_text(json.dumps(records), encoding="utf-8")
    text = " ".join(" ".join(start_up(recipe)).split())
    assert "(12 images of 8 bits, 12 images of 12 bits)" in text
    assert "set data.intensity.type=percentile" in text
    text = " ".join(start_up(load_recipe(tmp_path / "mine.yaml", [
        "heads.scene.options.class_weights=inverse_sqrt", "data.intensity.type=percentile",
    ])))  # fmt: skip
    assert "bit depths" not in text


def test_values_of_12_bits_in_16_are_a_warning(tmp_path: Path) -> None:
    recipe = written_recipe(tmp_path, 3)
    for file in (tmp_path / "data").rglob("*.png"):
        pixels = np.asarray(Image.open(file))
        if pixels.ndim == 3:
            Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 16).save(file)
    text = " ".join(" ".join(start_up(recipe)).split())
    assert "sampled images of 16 bits is" in text
    assert (
        "data.intensity.type=window data.intensity.level=2047.5 data.intensity.width=4095" in text
    )
