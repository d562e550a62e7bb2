"""Several sources that looked for different things: weights, what each teaches, and refusals."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from resnet_tasks.assemble.annotation_coverage import require_annotations
from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import merge_categories, read_split
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.run_folder.checkpoint import load_model_weights
from resnet_tasks.structures.samples import collate
from resnet_tasks.training.finetune_recipe import finetune_recipe
from tests.support.interrupting import asked_to_stop_at

CAR, ROAD, BUS = (
    {"id": 1, "name": "car"},
    {"id": 2, "name": "road", "isthing": 0},
    {"id": 5, "name": "bus"},
)
LIGHT = {
    "anchor_sizes": [16, 32, 64, 128, 256],
    "pyramid_channels": 16,
    "box_head_channels": 16,
    "rpn_pre_nms": [50, 50],
    "rpn_post_nms": [20, 20],
}


def write_source(
    folder: Path, name: str, count: int, categories: list[dict[str, Any]], *kinds: str
) -> None:
    """`count` images with a car as box, or with pixels of the first category, or both."""
    rng = np.random.default_rng(len(name))
    images, annotations = [], []
    for i in range(1, count + 1):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(
            folder / f"{name}{i}.png"
        )
        record = {"id": i, "file_name": f"{name}{i}.png", "height": 64, "width": 64}
        if "semantic" in kinds:
            pixels = np.zeros((64, 64), np.uint8)
            pixels[32:] = categories[0]["id"]
            Image.fromarray(pixels).save(folder / f"{name}{i}_map.png")
            record["sem_seg_file_name"] = f"{name}{i}_map.png"
        images.append(record)
        if "boxes" in kinds:
            corners = [8, 8, 38, 8, 38, 38, 8, 38]
            masks = {"segmentation": [corners]} if "masks" in kinds else {}
            annotations.append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": categories[0]["id"],
                    **masks,
                    "bbox": [8, 8, 30, 30],
                    "area": 900,
                    "iscrowd": 0,
                }
            )
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(
        json.dumps({**content, "info": {"annotated": list(kinds)}})
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Boxes of cars; pixels of road; both, of cars, roads and buses."""
    folder = tmp_path / "data" / "mixed"
    folder.mkdir(parents=True)
    write_source(folder, "boxes", 4, [CAR], "boxes")
    write_source(folder, "pixels", 3, [ROAD], "semantic")
    write_source(folder, "both", 3, [CAR, ROAD, BUS], "boxes", "semantic")
    return tmp_path / "data"


def recipe(*sources: dict[str, Any], **changes: Any) -> Recipe:
    content = {
        "name": "mixed",
        "data": {
            "root": "mixed",
            "train": [dict(each) for each in sources],
            "val": [{"annotations": "both.json"}],
            "allow_leaks": True,
        },
        "backbone": {"name": "resnet10t", "weights": "none"},
        "heads": {
            "objects": {"type": "faster_rcnn", "options": LIGHT},
            "scene": {
                "type": "unet",
                "background": True,
                "options": {"decoder_channels": [16, 16, 16, 16, 16]},
            },
        },
        "training": {
            "epochs": 2,
            "batch_size": 3,
            "evaluate_every": 0,
            "precision": "fp32",
            "device": "cpu",
        },
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(content))


ALL = (
    {"annotations": "boxes.json", "weight": 0.5},
    {"annotations": "pixels.json"},
    {"annotations": "both.json", "weight": 2.0},
)


def test_each_source_teaches_what_it_was_annotated_for(data: Path) -> None:
    made = recipe(*ALL)
    files = read_split(made, "train", data)
    categories = merge_categories(files)
    train = build_dataset(made, files, categories, training=True)
    assert categories.names == ("car", "road", "bus")
    assert train.unannotated == ((1, 2), (0, 2), ())
    assert train[0].target.unannotated is not None
    assert train[0].target.unannotated.tolist() == [1, 2]
    assert train[9].target.unannotated is None
    tables = {n: each.table for n, each in build_labels(made, categories).heads.items()}
    # A car without a look for buses: the car counts, the rest of the image is ignored.
    boxes = tables["objects"].apply(train[0].target, (64, 64))
    assert boxes.boxes is not None
    assert boxes.boxes.tolist() == [[8, 8, 38, 38], [-10000, -10000, 10064, 10064]]
    assert boxes.ignore is not None
    assert boxes.ignore.tolist() == [False, True]
    assert boxes.labels is not None
    assert boxes.labels[0] == 0
    # Nobody looked for cars and buses: unlabeled pixels are no background, road is road.
    pixels = tables["scene"].apply(train[4].target, (64, 64)).semantic
    assert pixels is not None
    assert (pixels[:32] == -1).all()
    assert (pixels[32:] == 2).all()
    whole = tables["scene"].apply(train[9].target, (64, 64))
    assert whole.semantic is not None
    assert (whole.semantic[:32] == 0).all()
    assert whole.boxes is not None
    assert len(whole.boxes) == 1


def test_declared_categories_stand_in_place_of_the_listed_ones(data: Path) -> None:
    looked = {"annotations": "boxes.json", "categories": ["car", "bus"]}
    made = recipe(looked, *ALL[1:])
    files = read_split(made, "train", data)
    train = build_dataset(made, files, merge_categories(files), training=True)
    assert train.unannotated[0] == (1,)
    wrong = recipe({**looked, "categories": ["cra"]}, *ALL[1:])
    with pytest.raises(
        RecipeError,
        match=r"boxes\.json: 'cra' is not a category of the dataset .*did you mean 'car'",
    ):
        build_dataset(wrong, files, merge_categories(files), training=True)


def test_sources_whose_paths_end_alike_keep_their_own_settings(data: Path) -> None:
    folder = data / "mixed"
    (folder / "sub").mkdir()
    shutil.copy(folder / "boxes.json", folder / "sub" / "boxes.json")
    looked = {"annotations": "sub/boxes.json", "images": ".", "categories": ["car", "bus"]}
    made = recipe({"annotations": "boxes.json"}, looked, *ALL[1:])
    files = read_split(made, "train", data)
    train = build_dataset(made, files, merge_categories(files), training=True)
    assert train.unannotated == ((1, 2), (1,), (0, 2), ())


def fit(made: Recipe, data: Path) -> list[str]:
    files = {split: read_split(made, split, data) for split in ("train", "val")}
    categories = merge_categories([*files["train"], *files["val"]])
    train = build_dataset(made, files["train"], categories, training=True)
    val = build_dataset(made, files["val"], categories)
    return require_annotations(made, build_labels(made, categories), train, val)


def test_partial_sources_are_told_of(data: Path) -> None:
    notes = fit(recipe(*ALL), data)
    assert len(notes) == 2
    assert "boxes.json was not annotated for bus: objects does not learn from" in (notes[0])
    assert "pixels.json was not annotated for car, bus" in notes[1]
    made = recipe({"annotations": "both.json"}).model_dump(mode="json")
    made["data"]["val"] = [{"annotations": "boxes.json"}]
    (note,) = fit(Recipe.model_validate_json(json.dumps(made)), data)
    assert note.startswith("val: ")
    assert "does not list bus" in note


def test_sources_without_masks_are_reported(data: Path) -> None:
    write_source(data / "mixed", "masks", 2, [CAR], "boxes", "masks")
    heads = {"cars": {"type": "mask_rcnn", "options": LIGHT, "classes": ["car"]}}
    val = {"annotations": "masks.json"}
    boxes, masks = {"annotations": "boxes.json"}, {"annotations": "masks.json"}

    def report(*sources: dict[str, Any]) -> list[str]:
        values = recipe(*sources, heads=heads).model_dump(mode="json")
        values["data"]["val"] = [val]
        return fit(Recipe.model_validate_json(json.dumps(values)), data)

    assert report(masks) == []
    (note,) = report(boxes, masks)
    assert note.endswith(
        "boxes.json does not annotate masks: cars learns only boxes, labels from it"
    )
    (note,) = report(boxes)
    assert note == (
        "train: no file annotates masks: cars cannot learn masks, and the masks that cars "
        "predicts will be meaningless"
    )


def test_what_no_source_can_teach_is_refused(data: Path) -> None:
    with pytest.raises(RecipeError, match=r"no file under data\.train .* lists the category 'bus'"):
        fit(recipe(ALL[0], ALL[1]), data)
    write_source(data / "mixed", "buses", 2, [BUS], "boxes")
    with pytest.raises(RecipeError, match=r"every file under data\.train lacks a category"):
        fit(recipe({"annotations": "buses.json"}, ALL[0], ALL[1]), data)
    # A head each needs no image that was looked at for both.
    own = {"type": "faster_rcnn", "options": LIGHT}
    heads = {"cars": {**own, "classes": ["car"]}, "buses": {**own, "classes": ["bus"]}}
    made = recipe({"annotations": "buses.json"}, ALL[0], heads=heads)
    assert fit(made, data) == []


def test_weights_decide_how_often_images_come(data: Path) -> None:
    made = recipe(*ALL)
    files = read_split(made, "train", data)
    train = build_dataset(made, files, merge_categories(files), training=True)
    repeats = train.epoch_sampler.repeats
    assert repeats is not None
    assert repeats.tolist() == [0.5] * 4 + [1.0] * 3 + [2.0] * 3
    with pytest.raises(ValueError, match=r"val\[0\]\.weight is 2\.0"):
        recipe(*ALL, data={**made.data.model_dump(mode="json"), "val": [ALL[2]]})


def test_training_on_mixed_sources_is_finite_and_resumes_exactly(
    data: Path, tmp_path: Path
) -> None:
    """11 visits an epoch: 2 of 4 images of boxes, 3 of pixels, 3 of both, twice each."""
    torch.set_num_threads(1)
    quiet = Console(file=io.StringIO())
    made = recipe(*ALL)
    whole = finetune_recipe(made, out=tmp_path / "whole", data_root=data, console=quiet)
    assert whole is not None
    events = list(map(json.loads, (tmp_path / "whole/log.jsonl").read_text().splitlines()))
    steps = [each for each in events if each["event"] == "step"]
    assert len(steps) == 8
    assert all(np.isfinite(value) for each in steps for value in each["losses"].values())
    with asked_to_stop_at(2):
        finetune_recipe(made, out=tmp_path / "cut", data_root=data, console=quiet)
    kept = load_recipe(tmp_path / "cut/recipe.yaml")
    finetune_recipe(kept, resume=tmp_path / "cut", data_root=data, console=quiet)
    first, second = (
        load_model_weights(tmp_path / n / "checkpoints/last") for n in ("whole", "cut")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_of_partial_images_without_objects_is_finite(data: Path) -> None:
    made = recipe(*ALL)
    files = read_split(made, "train", data)
    categories = merge_categories(files)
    train = build_dataset(made, files, categories, training=True)

    model = build_model(made, build_labels(made, categories))
    sample = train[0]
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "ignore": torch.zeros(0, dtype=torch.bool),
    }

    sample = replace(sample, target=replace(sample.target, **empty))
    losses = model(collate([sample, sample]), mode="loss")
    assert {name.split("/")[0] for name in losses} == {"objects"}
    total = model.compute_total_loss(losses)
    total.backward()
    assert total.item() == 0
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all((each == 0).all() for each in gradients)


def test_visits_count_per_epoch(data: Path) -> None:
    made = recipe(*ALL)
    files = read_split(made, "train", data)
    train = build_dataset(made, files, merge_categories(files), training=True)
    batches = train.epoch_sampler.make_batches(len(train), 3, seed=0, epoch=3)
    keys = [key for batch in batches for key in batch if key[1] == 7]
    assert keys == [(3, 7, 1.0, 0), (3, 7, 1.0, 1)]
    first, again, other = (train[key] for key in [*keys, (3, 1)])
    assert first.seed != again.seed
    assert first.image_id == again.image_id
    assert Counter([first.seed, train[(3, 7)].seed])[first.seed] == 2
    assert other.image_id != first.image_id


def set_crowd(folder: Path, name: str, iscrowd: int) -> None:
    path = folder / "mixed" / f"{name}.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = iscrowd
    path.write_text(json.dumps(content))


def test_detection_without_objects_is_refused(data: Path) -> None:
    heads = {"cars": {"type": "faster_rcnn", "options": LIGHT, "classes": ["car"]}}
    made = recipe(ALL[0], heads=heads)
    set_crowd(data, "boxes", 1)
    with pytest.raises(RecipeError, match=r"heads\.cars: .* \(car\): 4 regions have `iscrowd: 1`"):
        fit(made, data)
    # A single object is sufficient.
    path = data / "mixed" / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 0
    path.write_text(json.dumps(content))
    assert fit(made, data) == []
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(RecipeError, match=r"its classes \(car\); add annotations"):
        fit(made, data)


def test_a_class_of_crowds_among_others_is_a_warning(data: Path) -> None:
    heads = {"all": {"type": "faster_rcnn", "options": LIGHT, "classes": ["car", "van"]}}
    path = data / "mixed" / "boxes.json"
    content = json.loads(path.read_text())
    other = dict(content["annotations"][0], id=99, iscrowd=1, category_id=77)
    content["categories"].append({"id": 77, "name": "van"})
    content["annotations"] += [other, dict(other, id=98)]
    path.write_text(json.dumps(content))
    made = recipe(ALL[0], heads=heads)
    warnings = [note for note in fit(made, data) if "iscrowd" in note]
    assert warnings == [
        (
            "warning: train: training ignores all objects of 1 class of all, because they have "
            "`iscrowd: 1`: van (2 regions); if each is a single object, set its `iscrowd` to 0"
        )
    ]
    content["categories"][-1]["isthing"] = 0  # regions of stuff are crowds
    path.write_text(json.dumps(content))
    assert not [note for note in fit(made, data) if "iscrowd" in note]


def test_validation_without_objects_is_noted(data: Path) -> None:
    heads = {"cars": {"type": "faster_rcnn", "options": LIGHT, "classes": ["car"]}}
    set_crowd(data, "both", 1)
    (note,) = fit(recipe(ALL[0], heads=heads), data)
    assert note.startswith("val: 3 regions of cars's classes with `iscrowd: 1`, but no object")


@pytest.mark.parametrize("name", ["boxes", "both"])
def test_boxes_as_fractions_are_refused(data: Path, name: str) -> None:
    heads = {"cars": {"type": "faster_rcnn", "options": LIGHT, "classes": ["car"]}}
    path = data / "mixed" / f"{name}.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.125, 0.125, 0.5, 0.5]
    path.write_text(json.dumps(content))
    number = len(content["annotations"])
    with pytest.raises(DataError, match=f"{number} of {number} boxes .* --convert relative_boxes"):
        fit(recipe(ALL[0], heads=heads), data)


def test_boxes_that_look_like_corners_are_noted(data: Path) -> None:
    heads = {"cars": {"type": "faster_rcnn", "options": LIGHT, "classes": ["car"]}}
    path = data / "mixed" / "boxes.json"
    content = json.loads(path.read_text())
    # The images are 64 x 64.
    for annotation in content["annotations"]:
        annotation["bbox"] = [30, 30, 60, 60]
    path.write_text(json.dumps(content))
    (note,) = fit(recipe(ALL[0], heads=heads), data)
    assert note.startswith("train: ")
    assert "4 of 4 boxes would end outside the image" in note
