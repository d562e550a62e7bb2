"""Models of recipes: several heads on real images, backbones of any depth and stride."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.labels import build_labels
from resnet_tasks.assemble.model import build_model
from resnet_tasks.assemble.split_files import read_split
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.samples import collate
from tests.support.small_recipes import CATEGORIES, recipe, with_backbone


def test_problems_of_all_heads_come_together() -> None:
    made = recipe(
        a={"type": "faster_rcnn", "options": {"score_treshold": 0.1}},
        b={"type": "unet", "options": {"loss": "hinge"}},
    )
    with pytest.raises(RecipeError) as caught:
        build_model(made, build_labels(made, CATEGORIES))
    assert "heads.a" in str(caught.value)
    assert "score_treshold" in str(caught.value)
    assert "heads.b" in str(caught.value)
    assert "hinge" in str(caught.value)


def test_two_heads_learn_from_real_coco_images(shared_data: Path) -> None:
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
    labels = build_labels(made, files[0].categories)
    assert len(labels.heads["objects"].classes) == 80
    assert labels.heads["scene"].category_ids[-1] == 90
    dataset = build_dataset(made, files, files[0].categories)
    model = build_model(made, labels)
    batch = collate([dataset[i] for i in range(2)])
    losses = model(batch, mode="loss")
    assert {name.split("/")[0] for name in losses} == {"objects", "scene"}
    model.compute_total_loss(losses).backward()
    assert torch.isfinite(model.backbone.conv1[0].weight.grad).all()  # type: ignore[index, union-attr]
    predictions = model.predict(batch)
    height, width = batch.geometries[0].original_size
    assert predictions["scene"][0].labels.shape == (height, width)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"name": "resnet50", "layers": [1, 1, 1, 1]}, "name is 'resnet50'; remove one of the two"),
        ({"name": "resnet"}, "needs layers, such as"),
        ({"name": "resnet18", "block": "basic"}, "block: basic applies only to layers"),
        ({"layers": [1, 1, 1]}, "backbone.layers"),
        ({"layers": [1, 1, 1, 0]}, "backbone.layers.3"),
        ({"output_stride": 4}, "backbone.output_stride"),
    ],
)
def test_backbones_that_contradict_themselves(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        with_backbone(part, "unet")
    assert message in str(caught.value)


@pytest.mark.parametrize("stride", [8, 16])
def test_unet_works_on_a_dilated_backbone(stride: int) -> None:
    part = {"name": "resnet10t", "weights": "none", "output_stride": stride}
    made = with_backbone(part, "unet")
    model = build_model(made, build_labels(made, CATEGORIES)).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 96))
        raw = model.named_heads["scene"](features)
    assert raw["logits"].shape == (1, 3, 64, 96)


def refusal_of(heads: dict[str, Any], **more: Any) -> str:
    part = {"name": "resnet10t", "weights": "none", "output_stride": 16}
    made = Recipe.model_validate(recipe(**heads).model_dump() | {"backbone": part, **more})
    with pytest.raises(RecipeError) as caught:
        build_model(made, build_labels(made, CATEGORIES))
    return str(caught.value)


def test_the_refusal_of_a_dilated_backbone_names_both_heads() -> None:
    options = {"decoder_channels": 8, "class_weights": "balanced"}
    heads = {
        "objects": {"type": "faster_rcnn"},
        "scene": {"type": "deeplabv3plus", "options": options},
    }
    shared = (
        "; heads.scene (deeplabv3plus), which shares the backbone of stride 16, can also read one "
        "of stride 32"
    )
    message = refusal_of(heads)
    assert message.startswith("recipe test: heads.objects: the strides of Faster R-CNN's levels")
    assert message.endswith(f"set backbone.output_stride to 32, or use another head{shared}")
    message = refusal_of(heads, pyramid={"channels": 8})
    assert message.startswith("recipe test: pyramid: the strides of a feature pyramid must double")
    assert message.endswith(
        f"; heads.objects (faster_rcnn) needs stride 32 like the pyramid{shared}"
    )


def test_a_lone_head_is_refused_without_others() -> None:
    message = refusal_of({"objects": {"type": "faster_rcnn"}})
    assert message.endswith("set backbone.output_stride to 32, or use another head")


def test_deeplab_works_at_stride_32_beside_a_detector() -> None:
    made = recipe(
        objects={"type": "faster_rcnn", "options": {"pyramid_channels": 8}},
        scene={"type": "deeplabv3plus", "options": {"decoder_channels": 8}},
    )
    model = build_model(made, build_labels(made, CATEGORIES)).eval()
    with torch.no_grad():
        features = model.backbone(torch.rand(1, 3, 64, 96))
        logits = model.named_heads["scene"](features)["logits"]
    assert logits.shape == (1, 3, 64, 96)


def test_all_blocks_of_a_stage_can_be_dilated_alike() -> None:
    dilations = []
    for contract in (True, False):
        part = {"name": "resnet18", "weights": "none", "output_stride": 8}
        made = with_backbone({**part, "contract_dilation": contract}, "unet")
        backbone = build_model(made, build_labels(made, CATEGORIES)).backbone
        dilations.append(
            [
                backbone.get_submodule(f"layer{stage}.{block}.conv1").dilation[0]
                for stage in (2, 3, 4)
                for block in (0, 1)
            ]
        )
    assert dilations == [[1, 1, 1, 2, 2, 4], [1, 1, 2, 2, 4, 4]]
