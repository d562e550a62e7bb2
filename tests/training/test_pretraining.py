"""The closed loop: images in folders -> a pretrained backbone -> a detector that starts there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from data_tools.converters.synthetic import make_cells
from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.cli import app
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.runs.run import load
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.training.finetune_recipe import finetune_recipe

SMALL = ("backbone.name=resnet10t", "training.batch_size=4", "training.precision=fp32")
QUIET = Console(quiet=True)


def colors(folder: Path) -> Path:
    """Eight reddish and eight bluish noise images, in a folder each."""
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
    source, out = colors(folder / "source"), folder / "data" / "images"
    words = ["data", "convert", "image-folders", str(source), str(out), "val_fraction=0.25"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    assert "train: 12 images; objects: blue 6, red 6" in made.stdout
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
    assert len(list((file.parent / "images").iterdir())) == 4


def test_a_run_predicts_what_a_image_shows(pretrained: Path, tmp_path: Path) -> None:
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
    labels = build_labels(recipe, merge_categories(read_split(recipe, "train", tmp_path / "data")))
    backbone = build_model(recipe, labels).backbone
    assert isinstance(backbone, ResNet)
    report = backbone.report
    assert report is not None
    assert report.missing == ()
    own = backbone.state_dict()
    assert set(report.matched) == set(own)
    weights = load(pretrained).load_model().backbone.state_dict()
    assert all(torch.equal(own[key], weights[key].cpu()) for key in own)

    out = tmp_path / "run"
    assert finetune_recipe(recipe, data_root=tmp_path / "data", out=out, console=QUIET) is not None
    assert (
        "objects/AP50" in json.loads((out / "evaluations/val/metrics.json").read_text())["metrics"]
    )


def with_labels(folder: Path, split: str, labels: dict[int, list[int]]) -> None:
    """Gives the cells a second file of the same images: image-level labels only."""
    content = json.loads((folder / f"{split}.json").read_text())
    content["info"] = {"annotated": ["image"]}
    content["categories"] += [{"id": 11, "name": "dim"}, {"id": 12, "name": "bright"}]
    boxed = {**content, "info": {"annotated": ["boxes", "masks", "semantic"]}}
    (folder / f"{split}.json").write_text(json.dumps(boxed))
    found = [
        {"id": 1000 + 10 * image + i, "image_id": image, "category_id": label}
        for image, several in labels.items()
        for i, label in enumerate(several)
    ]
    content["images"] = [each for each in content["images"] if each["id"] in labels]
    content["annotations"] = found
    (folder / f"{split}_labels.json").write_text(json.dumps(content))


JOINT = """
data:
  root: cells
  train: [{annotations: train.json}, {annotations: train_labels.json}]
  val: [{annotations: val.json}, {annotations: val_labels.json}]
backbone: {name: resnet10t, weights: none}
heads:
  light: {type: classifier, classes: [dim, bright], options: {multi_label: MULTI}}
  objects:
    type: faster_rcnn
    classes: [smooth, granular, lobed]
    options: {pyramid_channels: 16, box_head_channels: 16, anchor_sizes: [16, 32, 64, 128, 256]}
training: {epochs: 1, batch_size: 4, precision: fp32}
"""


def joint(folder: Path, labels: dict[int, list[int]], *, multi_label: bool) -> Path:
    """A recipe of a classifier beside a detector, each with files of its own."""
    cells = folder / "data" / "cells"
    make_cells(cells, train=4, val=2, seed=0, size=(96, 128))
    with_labels(cells, "train", labels)
    with_labels(cells, "val", {1: [11], 2: [12]})
    names = [each["name"] for each in json.loads((cells / "val.json").read_text())["categories"]]
    text = JOINT.replace("MULTI", str(multi_label).lower())
    text = text.replace("[smooth, granular, lobed]", str(names[:-2]).replace("'", ""))
    (folder / "joint.yaml").write_text(text)
    return folder / "joint.yaml"


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_classifier_and_a_detector_learn_from_files_of_their_own(
    tmp_path: Path, multi_label: bool
) -> None:
    file = joint(tmp_path, {1: [11], 2: [12], 3: [11]}, multi_label=multi_label)
    out = tmp_path / "run"
    finetune_recipe(load_recipe(file), data_root=tmp_path / "data", out=out, console=QUIET)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert any("light/" in json.dumps(each) and "objects/" in json.dumps(each) for each in lines)
    found = json.loads((out / "evaluations/val/metrics.json").read_text())
    main = "light/AUROC" if multi_label else "light/top1"
    assert found["metrics"][main]["value"] is not None
    assert "objects/AP" in found["metrics"]
    details = json.loads((out / "evaluations/val/details.json").read_text())
    assert [each["image_id"] for each in details["light"]["images"]] == [
        "val_labels/1",
        "val_labels/2",
    ]


def test_another_number_of_labels_stops_with_the_images_name(tmp_path: Path) -> None:
    file = joint(tmp_path, {1: [11], 2: [11, 12], 3: []}, multi_label=False)
    words = ["finetune", str(file), "--data-root", str(tmp_path / "data"), "--out"]
    made = CliRunner().invoke(app, [*words, str(tmp_path / "run")])
    assert made.exit_code == 2
    assert "image-level labels among the classes of this head" in made.stderr
    assert "error: heads.light: image 'train_labels/2' has 2" in " ".join(made.stderr.split())
    assert "(1 other image has the same problem)" in " ".join(made.stderr.split())
    assert not (tmp_path / "run").exists()
