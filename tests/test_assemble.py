"""Recipe -> objects: labels of heads, models, and errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from resnet_tasks.assemble import (
    Labels,
    build_dataset,
    build_model,
    check_recipe,
    find_data,
    label_heads,
    read_split,
)
from resnet_tasks.data.coco import Category, CategoryMap
from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema import Recipe
from resnet_tasks.recipe.shelf import list_recipes
from resnet_tasks.structures import ABSENT, IGNORED, VOID, collate

RECIPES = Path(__file__).parents[1] / "recipes"

CATEGORIES = CategoryMap(
    (Category(3, "car"), Category(7, "road", is_thing=False), Category(9, "person"))
)


def recipe(**heads: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "test",
            "data": {
                "root": "here",
                "train": [{"annotations": "train.json"}],
                "val": [{"annotations": "train.json"}],
            },
            "backbone": {"name": "resnet10t", "weights": "none"},
            "heads": heads,
        }
    )


def test_boxes_take_the_things_and_pixels_take_all() -> None:
    labels = label_heads(recipe(a={"type": "faster_rcnn"}, b={"type": "unet"}), CATEGORIES)
    assert labels.heads["a"].classes == ("car", "person")
    assert labels.heads["a"].category_ids == (3, 9)
    assert labels.heads["a"].table.mapping == (0, IGNORED, 1)
    assert labels.heads["b"].classes == ("car", "road", "person")
    assert labels.heads["b"].table.unlabelled == VOID


def test_background_comes_first_and_takes_others_when_asked() -> None:
    part = {"type": "unet", "background": True, "classes": ["person"]}
    ignoring = label_heads(recipe(a=part), CATEGORIES).heads["a"]
    assert ignoring.classes == ("background", "person")
    assert ignoring.category_ids == (0, 9)
    assert ignoring.table.mapping == (IGNORED, IGNORED, 1)
    assert ignoring.table.unlabelled == 0
    taking = label_heads(recipe(a={**part, "others": "background"}), CATEGORIES).heads["a"]
    assert taking.table.mapping == (0, 0, 1)
    boxes = {"type": "faster_rcnn", "classes": ["person"], "others": "background"}
    assert label_heads(recipe(a=boxes), CATEGORIES).heads["a"].table.mapping == (ABSENT, ABSENT, 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"type": "faster_rcnn", "background": True}, "only semantic heads have a background"),
        ({"type": "unet", "others": "background"}, "needs heads.a.background: true"),
        ({"type": "unet", "classes": ["persn"]}, "did you mean 'person'"),
    ],
)
def test_labels_that_do_not_fit(head: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        label_heads(recipe(a=head), CATEGORIES)


def test_labels_survive_json() -> None:
    labels = label_heads(recipe(a={"type": "faster_rcnn"}, b={"type": "unet"}), CATEGORIES)
    assert Labels.from_json(json.loads(json.dumps(labels.to_json()))) == labels


def test_problems_of_all_heads_come_together() -> None:
    made = recipe(
        a={"type": "faster_rcnn", "options": {"score_treshold": 0.1}},
        b={"type": "unet", "options": {"loss": "hinge"}},
    )
    with pytest.raises(RecipeError) as caught:
        build_model(made, label_heads(made, CATEGORIES))
    assert "heads.a" in str(caught.value)
    assert "score_treshold" in str(caught.value)
    assert "heads.b" in str(caught.value)
    assert "hinge" in str(caught.value)


def test_every_shipped_recipe_builds() -> None:
    shipped = list_recipes()
    assert len(shipped) == len([*RECIPES.rglob("*.yaml")]) >= 7
    for info in shipped:
        sentence = check_recipe(load_recipe(info.path), Path("nowhere"))
        assert "M parameters" in sentence


def test_problems_of_all_parts_come_at_once() -> None:
    made = load_recipe(
        "quickstart",
        [
            "backbone.name=resnet81",
            "heads.scene.options.los=x",
            "heads.objects.options.nms_iou=7",
            "augment=[{Flp: {p: 0.5}}]",
        ],
    )
    with pytest.raises(RecipeError) as caught:
        check_recipe(made, Path("nowhere"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    for wrong in ("resnet81", "los", "nms_iou", "Flp"):
        assert any(wrong in line for line in lines)


def test_unknown_head_type_comes_with_its_key_path() -> None:
    made = recipe(a={"type": "retinanet"})
    with pytest.raises(RecipeError, match=r"heads\.a\.type: unknown head 'retinanet'"):
        label_heads(made, CATEGORIES)


def test_missing_data_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(a={"type": "unet"})
    with pytest.raises(DataError, match="resnet-tasks data prepare here"):
        find_data(made, tmp_path)
    (tmp_path / "here").mkdir()
    assert find_data(made, tmp_path) == tmp_path / "here"
    monkeypatch.setenv("RESNET_TASKS_DATA", str(tmp_path))
    assert find_data(made) == tmp_path / "here"
    with pytest.raises(DataError, match=r"data\.test"):
        read_split(made, "test", tmp_path)


def test_two_heads_learn_from_real_coco_pictures(shared_data: Path) -> None:
    """80 categories with gapped ids, crowds and run lengths, from file to losses and "
    "predictions."""
    made = Recipe.model_validate(
        {
            "data": {
                "root": str(shared_data / "coco_tiny"),
                "train": [
                    {"annotations": "annotations/instances_val2017.json", "images": "val2017"}
                ],
                "val": [{"annotations": "annotations/instances_val2017.json", "images": "val2017"}],
                "resize": {"height": 128, "width": 160},
            },
            "backbone": {"name": "resnet10t", "weights": "none"},
            "heads": {
                "objects": {"type": "faster_rcnn", "options": {"pyramid_channels": 32}},
                "scene": {"type": "fpn", "background": True},
            },
        }
    )
    files = read_split(made, "val")
    labels = label_heads(made, files[0].categories)
    assert len(labels.heads["objects"].classes) == 80
    assert labels.heads["scene"].category_ids[-1] == 90
    dataset = build_dataset(made, files, files[0].categories)
    model = build_model(made, labels)
    batch = collate([dataset[i] for i in range(2)])
    losses = model(batch, mode="loss")
    assert {name.split("/")[0] for name in losses} == {"objects", "scene"}
    model.total_loss(losses).backward()
    assert torch.isfinite(model.backbone.conv1[0].weight.grad).all()  # type: ignore[index, union-attr]
    predictions = model.predict(batch)
    height, width = batch.geometries[0].original_size
    assert predictions["scene"][0].labels.shape == (height, width)


def with_backbone(part: dict[str, Any], head: str) -> Recipe:
    values = recipe(scene={"type": head}).model_dump()
    return Recipe.model_validate(values | {"backbone": part})


def test_layers_describe_a_backbone_without_a_name() -> None:
    part = {"layers": [1, 1, 2, 1], "block": "basic", "weights": "none"}
    made = with_backbone(part, "unet")
    assert made.backbone.name == "resnet"
    assert "resnet of [1, 1, 2, 1] basic blocks with scene" in check_recipe(made, Path("nowhere"))
    labels = label_heads(made, CATEGORIES)
    assert len(build_model(made, labels).backbone.layer3) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": "resnet50", "layers": [1, 1, 1, 1]}, "name is 'resnet50'; leave one of the two"),
        ({"name": "resnet"}, "needs layers, such as"),
        ({"name": "resnet18", "block": "basic"}, "block: basic goes with layers"),
        ({"layers": [1, 1, 1]}, "backbone.layers"),
        ({"layers": [1, 1, 1, 0]}, "backbone.layers.3"),
        ({"output_stride": 4}, "backbone.output_stride"),
    ],
)
def test_backbones_that_contradict_themselves(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        with_backbone(part, "unet")
    assert message in str(caught.value)


def test_weights_by_name_do_not_go_with_layers() -> None:
    made = with_backbone({"layers": [1, 1, 1, 1]}, "unet")
    with pytest.raises(RecipeError, match=r"backbone\.weights is 'imagenet', but nobody trained"):
        check_recipe(made, Path("nowhere"))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("head", ["faster_rcnn", "fpn"])
def test_pyramids_refuse_a_dilated_backbone(head: str, stride: int) -> None:
    part = {"name": "resnet10t", "weights": "none", "output_stride": stride}
    with pytest.raises(RecipeError, match=r"heads\.scene: .*backbone\.output_stride to 32"):
        check_recipe(with_backbone(part, head), Path("nowhere"))


@pytest.mark.parametrize("stride", [8, 16])
def test_unet_works_on_a_dilated_backbone(stride: int) -> None:
    part = {"name": "resnet10t", "weights": "none", "output_stride": stride}
    made = with_backbone(part, "unet")
    model = build_model(made, label_heads(made, CATEGORIES)).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 96))
        raw = model.named_heads["scene"](features)
    assert raw["logits"].shape == (1, 3, 64, 96)
