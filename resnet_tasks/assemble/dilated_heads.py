"""Heads of a recipe that read a dilated backbone, for errors of the heads that cannot."""

from __future__ import annotations

from collections.abc import Mapping

from resnet_tasks.assemble.heads import get_head_class
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import HeadError, RecipeError
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.feature_spec import FeatureSpec


def describe_dilated_heads(
    recipe: Recipe, labels: Labels, backbone: ResNet, refused: str = ""
) -> str:
    """Describe the other heads that share a dilated backbone with a head that cannot read it.

    Args:
        recipe: Recipe with the heads.
        labels: Classes of the heads.
        backbone: Backbone with an output stride below 32.
        refused: Name of the head that cannot read it; "" for the shared pyramid.

    Returns:
        End of an error message, which names each head that can read the dilated backbone and states
        whether it also fits one of stride 32, and, for a pyramid, each head that cannot; empty if
        there is none.
    """
    usual = {
        level: FeatureSpec(spec.channels, 2 ** int(level.removeprefix("C")))
        for level, spec in backbone.specs.items()
    }
    text = ""
    for name in recipe.heads:
        head = f"heads.{name} ({recipe.heads[name].type})"
        if name == refused:
            continue
        if not _fits(recipe, labels, name, backbone.specs):
            text += "" if refused else f"; {head} needs stride 32 like the pyramid"
            continue
        stride = backbone.specs["C5"].stride
        if _fits(recipe, labels, name, usual):
            text += (
                f"; {head}, which shares the backbone of stride {stride}, can also read one of "
                "stride 32"
            )
        else:
            text += f"; {head} shares the backbone and needs stride {stride}: train it separately"
    return text


def _fits(recipe: Recipe, labels: Labels, name: str, specs: Mapping[str, FeatureSpec]) -> bool:
    try:
        head = recipe.heads[name]
        # Weights of classes do not matter here, and may still be the name of a weighting.
        options = {**head.options, "class_weights": None} if "class_weights" in head.options else {}
        get_head_class(name, head)(specs, labels.heads[name].classes, {**head.options, **options})
    except (HeadError, RecipeError):
        return False
    return True
