"""Every number of a recipe that sizes memory or work has a maximum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from resnet_tasks.assemble.heads import BUILT_IN_HEADS
from resnet_tasks.errors import HeadError, RecipeError
from resnet_tasks.heads.base import HEADS, HeadOptions
from resnet_tasks.heads.dense.fcos import FCOS
from resnet_tasks.heads.dense.retinanet import RetinaNet
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.rcnn.mask_rcnn import MaskRCNN
from resnet_tasks.heads.semantic.fpn import SemanticFPN
from resnet_tasks.heads.semantic.pspnet import PSPNet
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.heads.semantic.upernet import UPerNet
from resnet_tasks.recipe.load import load_recipe
from resnet_tasks.recipe.schema.recipe import Recipe

UNLIMITED = {
    "data.max_pixels",  # the limit of other numbers
    "data.folds.held_out",  # below `count`
}
# Heads of plugins are registered too if their tests were imported first.
BUILT_IN = [
    name for name in HEADS.list_names() if HEADS.get(name).__module__.startswith("resnet_tasks.")
]
assert len(BUILT_IN) >= len(BUILT_IN_HEADS)
SECTIONS = [
    Recipe,
    *(HEADS.get(name).Options for name in BUILT_IN),
]


def find_unlimited(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[str]:
    """Find the integers without a maximum in a JSON schema."""
    schema = definitions[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from find_unlimited(part, definitions, path)
    limits = {"maximum", "exclusiveMaximum", "enum", "const"}
    if schema.get("type") == "integer" and not limits & schema.keys():
        yield path
    for name, part in schema.get("properties", {}).items():
        yield from find_unlimited(part, definitions, f"{path}.{name}".lstrip("."))
    for part in (schema.get("items"), *schema.get("prefixItems", ())):
        if part:
            yield from find_unlimited(part, definitions, path)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from find_unlimited(schema["additionalProperties"], definitions, path)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_integers_have_a_maximum(section: type[BaseModel]) -> None:
    schema = section.model_json_schema()
    assert set(find_unlimited(schema, schema.get("$defs", {}), "")) <= UNLIMITED


def test_the_search_finds_integers_without_a_maximum() -> None:
    class Inner(BaseModel):
        sizes: tuple[int, ...]

    class Outer(BaseModel):
        number: int | None
        parts: dict[str, Inner]

    schema = Outer.model_json_schema()
    assert set(find_unlimited(schema, schema["$defs"], "")) == {"number", "parts.sizes"}


@pytest.mark.parametrize(
    "override",
    [
        "data.resize={height: 1000000, width: 1000000}",
        "data.workers=100000",
        "data.folds={count: 1000000, held_out: 0}",
        "training.batch_size=1000000",
        "training.accumulation=1000000000",
        "training.epochs=1000000000",
        "evaluation.resamples=1000000000",
        "evaluation.sliding={height: 1000000000, width: 64}",
        "pyramid.channels=1000000",
    ],
)
def test_large_numbers_are_rejected(override: str) -> None:
    with pytest.raises(RecipeError, match=r"allowed is a whole number from \d+ to \d+"):
        load_recipe("quickstart", [override])


def test_the_number_of_heads_is_limited() -> None:
    heads = ", ".join(f"h{i}: {{type: unet}}" for i in range(65))
    with pytest.raises(RecipeError, match="64"):
        load_recipe("quickstart", [f"heads={{{heads}}}"])


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (FasterRCNN, {"box_head_channels": 5000}, "box_head_channels"),
        (FasterRCNN, {"box_head_channels": 4096, "roi_output_size": 16}, "at most 1,000,000"),
        (FasterRCNN, {"aspect_ratios": [1.0] * 17}, "aspect_ratios"),
        (FasterRCNN, {"anchor_sizes": [[1.0] * 17] * 5}, "anchor_sizes"),
        (MaskRCNN, {"mask_head_channels": [8] * 17}, "mask_head_channels"),
        (MaskRCNN, {"mask_roi_output_size": 100}, "mask_roi_output_size"),
        (UNet, {"decoder_channels": [4096] * 5}, "decoder_channels"),
        (SemanticFPN, {"segmentation_channels": 4096}, "segmentation_channels"),
        (FCOS, {"num_convs": 100}, "num_convs"),
        (RetinaNet, {"aspect_ratios": [1.0] * 17}, "aspect_ratios"),
        (UPerNet, {"decoder_channels": 100_000}, "decoder_channels"),
        (PSPNet, {"pool_sizes": [1] * 17}, "pool_sizes"),
    ],
)
def test_large_heads_are_rejected(head: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message):
        head.parse_options(options)
    assert isinstance(head.parse_options({}), HeadOptions)
