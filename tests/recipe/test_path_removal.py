"""Recipes that are shown to others name no folder of this machine."""

from __future__ import annotations

import pytest

from resnet_tasks.recipe.path_removal import make_portable
from resnet_tasks.recipe.schema.recipe import Recipe


def _recipe(root: str, weights: str, annotations: str = "train.json") -> Recipe:
    return Recipe.model_validate(
        {
            "data": {
                "root": root,
                "train": ({"annotations": annotations, "images": "/home/me/images"},),
                "val": ({"annotations": "sub/val.json"},),
            },
            "backbone": {"weights": weights},
            "heads": {"scene": {"type": "unet"}},
        }
    )


@pytest.mark.parametrize(
    ("root", "shown"),
    [
        ("/home/me/secret/camvid", "camvid"),
        ("C:\\Users\\me\\camvid", "camvid"),
        ("../me/camvid", "camvid"),
        ("~/camvid", "camvid"),
        ("/", "data"),
        ("sets/camvid", "sets/camvid"),
    ],
)
def test_folders(root: str, shown: str) -> None:
    made = make_portable(_recipe(root, "none", annotations="/home/me/train.json"))
    assert made.data.root == shown
    assert made.data.train[0].annotations == "train.json"
    assert made.data.train[0].images == "images"
    assert made.data.val[0].annotations == "sub/val.json"
    assert "/me" not in made.model_dump_json()


@pytest.mark.parametrize(
    ("weights", "shown"),
    [
        ("imagenet", "imagenet"),
        ("timm:a1_in1k", "timm:a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"),
        ("/home/me/w.safetensors", "w.safetensors"),
        ("runs/mine@best", "mine@best"),
    ],
)
def test_weights(weights: str, shown: str) -> None:
    assert make_portable(_recipe("d", weights)).backbone.weights == shown
    whole = _recipe("d", "none").model_copy(update={"model_weights": weights})
    assert make_portable(whole).model_weights == shown
