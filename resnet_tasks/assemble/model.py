"""The model of a recipe: backbone, shared pyramid, heads, and the weights that they start from."""

from __future__ import annotations

from resnet_tasks.assemble.heads import head_class
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.measured import weights_to_measure
from resnet_tasks.backbone.family import Depth
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import HeadError, RecipeError, RunError
from resnet_tasks.heads.base import Head
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.filling import fill_model
from resnet_tasks.recipe.schema import BackboneRecipe, ModelWeightsRecipe, NormalizeRecipe, Recipe
from resnet_tasks.structures import CLASSIFICATION


def build_model(recipe: Recipe, labels: Labels, *, weights: str | None = None) -> TaskModel:
    """The model of a recipe.

    `data.normalize: data` is for `with_constants` to resolve; until then the weights' constants
    stand. Class weights that are named are for `with_class_weights`; until then all weigh 1.

    Args:
        recipe: What to build.
        labels: Classes of its heads.
        weights: In place of `backbone.weights` and `model_weights`.

    Raises:
        ResnetTasksError: If labels, weights, levels or options do not fit; problems of all heads
            come together.
    """
    if set(recipe.heads) != set(labels.heads):
        raise RunError(
            f"the recipe has the heads {', '.join(recipe.heads)}, but the classes (classes.json of "
            f"a run) are those of {', '.join(labels.heads)}; restore both files of the run from a "
            "copy"
        )
    part, whole = recipe.backbone, recipe.model_weights if weights is None else None
    backbone = build_backbone(
        part,
        weights or ("unloaded" if whole else part.weights),
        in_channels=recipe.data.channels,
    )
    pyramid = _shared_pyramid(recipe, backbone)
    model = TaskModel(
        backbone,
        _heads(recipe, labels, backbone, pyramid),
        label_tables={name: each.table for name, each in labels.heads.items()},
        loss_weights={name: each.loss_weight for name, each in recipe.heads.items()},
        lr_scales={name: each.lr_scale for name, each in recipe.heads.items()},
        pyramid=pyramid,
    )
    if recipe.extend is not None and recipe.extend.heads:
        model.freeze(recipe.extend.freeze or ())
    if whole is not None:
        named = ModelWeightsRecipe(source=whole) if isinstance(whole, str) else whole
        fill_model(
            model,
            named.source,
            head=named.head,
            in_channels=recipe.data.channels,
            accept_license=part.accept_license,
        )
    normalise(model, recipe)
    return model


def build_backbone(part: BackboneRecipe, weights: str, *, in_channels: int = 3) -> ResNet:
    """The backbone of a recipe.

    Args:
        part: What to build.
        weights: In place of its own.
        in_channels: Channels of a picture.

    Raises:
        ResnetTasksError: If the name, the weights or an option does not fit.
    """
    return ResNet(
        backbone_shape(part),
        weights=weights,
        in_channels=in_channels,
        frozen_stages=part.frozen_stages,
        norm=part.norm,
        output_stride=part.output_stride,
        drop_path=part.drop_path,
        gradient_checkpointing=part.gradient_checkpointing,
        accept_license=part.accept_license,
    )


def backbone_shape(part: BackboneRecipe) -> str | Depth:
    """What `ResNet` is built from: a variant's name, or a depth of one's own."""
    return part.name if part.layers is None else Depth(part.layers, part.block)


def normalise(model: TaskModel, recipe: Recipe) -> None:
    """Gives a model the constants that the recipe states, where it states any."""
    constants = recipe.data.normalize
    if isinstance(constants, NormalizeRecipe):
        model.normalise_with(constants.mean, constants.std)


def _heads(
    recipe: Recipe, labels: Labels, backbone: ResNet, pyramid: FeaturePyramid | None
) -> dict[str, Head]:
    """The heads of a recipe on the levels of its backbone and its pyramid.

    Raises:
        RecipeError: With the problems of all heads, a line each.
    """
    specs = {**backbone.specs, **({} if pyramid is None else pyramid.specs)}
    heads: dict[str, Head] = {}
    problems = _whole_in_windows(recipe)
    measured = weights_to_measure(recipe)
    for name, head in recipe.heads.items():
        options = {**head.options, "class_weights": None} if name in measured else head.options
        try:
            heads[name] = head_class(name, head)(specs, labels.heads[name].classes, options)
        except HeadError as error:
            problems.append(f"recipe {recipe.name}: heads.{name}: {error}")
    if pyramid is not None and not problems:
        read = {level for head in heads.values() for level in head.in_levels}
        if not read & pyramid.specs.keys():
            problems.append(
                f"recipe {recipe.name}: pyramid: no head reads {', '.join(pyramid.specs)}; take it "
                "out"
            )
    if problems:
        raise RecipeError("\n".join(problems))
    return heads


def _whole_in_windows(recipe: Recipe) -> list[str]:
    """Heads that see pictures as a whole, in a recipe that cuts them."""
    if recipe.sliding is None:
        return []
    cause = "evaluation.sliding" if recipe.data.tiles is None else "data.tiles"
    return [
        f"recipe {recipe.name}: heads.{name} says what a picture shows as a whole, which parts of "
        f"it do not tell; take {cause} out, or the head"
        for name, head in recipe.heads.items()
        if head_class(name, head).task == CLASSIFICATION
    ]


def _shared_pyramid(recipe: Recipe, backbone: ResNet) -> FeaturePyramid | None:
    """The pyramid of the recipe, on C2..C5.

    Raises:
        RecipeError: If the backbone's strides do not double.
    """
    if recipe.pyramid is None:
        return None
    levels = {level: spec for level, spec in backbone.specs.items() if level != "C1"}
    try:
        return FeaturePyramid(levels, recipe.pyramid.channels)
    except HeadError as error:
        raise RecipeError(f"recipe {recipe.name}: pyramid: {error}") from None
