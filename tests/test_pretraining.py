"""The closed loop: pictures in folders -> a pretrained backbone -> a detector that starts there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from data_tools.synthetic import make_cells
from resnet_tasks.assemble import build_model, label_heads, merged_categories, read_split
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.cli import app
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.structures import Classification
from resnet_tasks.training.finetune import finetune_recipe
from resnet_tasks.training.run import load

SMALL = ("backbone.name=resnet10t", "training.batch_size=4", "training.precision=fp32")
QUIET = Console(quiet=True)


def colours(folder: Path) -> Path:
    """Eight reddish and eight bluish noise pictures, in a folder each."""
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 2), ("red", 0)):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 120, (32, 40, 3))
            pixels[..., channel] += 130
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped recipe, made small."""
    folder = tmp_path_factory.mktemp("pretraining")
    source, out = colours(folder / "source"), folder / "data" / "pictures"
    words = ["data", "convert", "image-folders", str(source), str(out), "val_fraction=0.25"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    assert "train: 12 pictures; objects: blue 6, red 6" in made.stdout
    small = (*SMALL, "training.epochs=4", "training.evaluate_every=0", "data.resize=null")
    recipe = load_recipe(
        "pretrain/image_folder_classifier_resnet18",
        [*small, "augment=[{HorizontalFlip: {p: 0.5}}]", "training.learning_rate=0.003"],
    )
    finetune_recipe(recipe, data_root=folder / "data", out=folder / "run", console=QUIET)
    return folder / "run"


def test_pretraining_learns_and_is_judged(pretrained: Path) -> None:
    file = pretrained / "evaluations" / "val" / "metrics.json"
    metrics = json.loads(file.read_text())["metrics"]
    assert metrics["label/top1"]["value"] == 1.0
    assert metrics["label/AUROC"]["value"] == 1.0
    assert metrics["label/top1"]["per_class"] == {"blue": 1.0, "red": 1.0}
    assert metrics["label/ECE"]["lower_is_better"]
    results = json.loads((file.parent / "predictions" / "label.json").read_text())
    assert len(results) == 4
    assert sorted(results[0]["category_ids"]) == [1, 2]
    assert len(list((file.parent / "pictures").iterdir())) == 4


def test_a_run_predicts_what_a_picture_shows(pretrained: Path, tmp_path: Path) -> None:
    run = load(pretrained)
    blue = np.zeros((30, 50, 3), np.uint8) + np.asarray([60, 60, 190], np.uint8)
    found = run.predict(blue)["label"]
    assert isinstance(found, Classification)
    assert run.classes["label"] == ("blue", "red")
    assert found.labels.tolist() == [0]
    Image.fromarray(blue).save(tmp_path / "sky.png")
    run.predict_paths([tmp_path / "sky.png"], out=tmp_path / "out", console=QUIET)
    (entry,) = json.loads((tmp_path / "out" / "label.json").read_text())
    assert entry["category_ids"][0] == 1
    assert (tmp_path / "out" / "overlays" / "sky.png").is_file()


@pytest.mark.parametrize("form", ["{run}", "{run}/checkpoints/last/model.safetensors"])
def test_a_detection_recipe_starts_from_every_tensor_of_it(
    pretrained: Path, tmp_path: Path, form: str
) -> None:
    make_cells(tmp_path / "data" / "cells", train=2, val=1, seed=0, size=(96, 128))
    overrides = [*SMALL, "training.epochs=1", f"backbone.weights={form.format(run=pretrained)}"]
    recipe = load_recipe("quickstart", overrides)
    labels = label_heads(recipe, merged_categories(read_split(recipe, "train", tmp_path / "data")))
    backbone = build_model(recipe, labels).backbone
    assert isinstance(backbone, ResNet)
    report = backbone.report
    assert report is not None
    assert report.missing == ()
    own = backbone.state_dict()
    assert set(report.matched) == set(own)
    weights = load(pretrained).model().backbone.state_dict()
    assert all(torch.equal(own[key], weights[key].cpu()) for key in own)

    out = tmp_path / "run"
    assert finetune_recipe(recipe, data_root=tmp_path / "data", out=out, console=QUIET) is not None
    assert (
        "objects/AP50" in json.loads((out / "evaluations/val/metrics.json").read_text())["metrics"]
    )
