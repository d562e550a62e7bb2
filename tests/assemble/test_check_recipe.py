"""Recipes are looked at as a whole: those that ship build, others tell all that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.training_setup import check_recipe
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.shipped_recipes import list_recipes
from tests.support.paths import ROOT
from tests.support.small_recipes import CATEGORIES, with_backbone

RECIPES = ROOT / "recipes"


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


def test_layers_describe_a_backbone_without_a_name() -> None:
    part = {"layers": [1, 1, 2, 1], "block": "basic", "weights": "none"}
    made = with_backbone(part, "unet")
    assert made.backbone.name == "resnet"
    assert "resnet of [1, 1, 2, 1] basic blocks with scene" in check_recipe(made, Path("nowhere"))
    labels = build_labels(made, CATEGORIES)
    assert len(build_model(made, labels).backbone.layer3) == 2  # type: ignore[attr-defined]


def test_weights_by_name_do_not_go_with_layers() -> None:
    made = with_backbone({"layers": [1, 1, 1, 1]}, "unet")
    with pytest.raises(
        RecipeError, match=r"backbone\.weights is 'imagenet', but no pretrained weights"
    ):
        check_recipe(made, Path("nowhere"))


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("head", ["faster_rcnn", "fpn"])
def test_pyramids_refuse_a_dilated_backbone(head: str, stride: int) -> None:
    part = {"name": "resnet10t", "weights": "none", "output_stride": stride}
    with pytest.raises(RecipeError, match=r"heads\.scene: .*backbone\.output_stride to 32"):
        check_recipe(with_backbone(part, head), Path("nowhere"))
