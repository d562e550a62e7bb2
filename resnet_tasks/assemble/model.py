"""Model of a recipe: backbone, shared pyramid, heads and initial weights."""

from __future__ import annotations

from collections.abc import Mapping

from resnet_tasks.assemble.dilated_heads import describe_dilated_heads
from resnet_tasks.assemble.heads import get_head_class, get_head_task
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.assemble.measured_settings import find_measured_weights
from resnet_tasks.backbone.family import ResNetSpec
from resnet_tasks.backbone.pretrained import LoadReport
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import HeadError, RecipeError, RunError, StrideError
from resnet_tasks.heads.base import Head
from resnet_tasks.layers.feature_pyramid import (
    ExtraLevels,
    FeaturePyramid,
    PyramidVariantError,
)
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.fill_model import fill_model
from resnet_tasks.recipe.schema.data import NormalizeRecipe
from resnet_tasks.recipe.schema.model import BackboneRecipe, ModelWeightsRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.feature_spec import FeatureSpec


def build_model(recipe: Recipe, labels: Labels, *, weights: str | None = None) -> TaskModel:
    """Build the model of a recipe.

    `data.normalize: data` is resolved by `measure_normalization`; until then the model has the
    normalization constants of its weights. Named class weights are resolved by
    `measure_class_weights`; until then all classes have weight 1.

    Args:
        recipe: Recipe to build.
        labels: Classes of the recipe's heads.
        weights: Backbone weights that replace `backbone.weights` and `model_weights`; `unloaded`:
            none, because the caller loads them; None: the weights of the recipe.

    Raises:
        ResnetTasksError: If labels, weights, levels or options do not fit; the problems of all
            heads are reported together.
    """
    if {*recipe.heads, *recipe.combine} != set(labels.heads):
        raise RunError(
            f"the recipe has the heads {', '.join(recipe.heads)}, but the classes (classes.json of "
            f"the run) belong to the heads {', '.join(labels.heads)}; restore recipe.yaml and "
            "classes.json of the run from a copy"
        )
    backbone_recipe, model_weights = (
        recipe.backbone,
        recipe.model_weights if weights is None else None,
    )
    backbone = build_backbone(
        backbone_recipe,
        weights or ("unloaded" if model_weights else backbone_recipe.weights),
        in_channels=recipe.data.channels,
    )
    pyramid = _build_shared_pyramid(recipe, labels, backbone)
    model = TaskModel(
        backbone,
        _build_heads(recipe, labels, backbone, pyramid),
        label_tables={name: labels.heads[name].table for name in recipe.heads},
        loss_weights={name: head.loss_weight for name, head in recipe.heads.items()},
        lr_scales={name: head.lr_scale for name, head in recipe.heads.items()},
        pyramid=pyramid,
    )
    if recipe.extend is not None and recipe.extend.heads:
        model.freeze(recipe.extend.freeze or ())
    if model_weights is not None:
        weights_recipe = (
            ModelWeightsRecipe(source=model_weights)
            if isinstance(model_weights, str)
            else model_weights
        )
        fill_model(
            model,
            weights_recipe.source,
            head=weights_recipe.head,
            in_channels=recipe.data.channels,
            accept_license=backbone_recipe.accept_license,
        )
    apply_normalization(model, recipe)
    return model


def build_backbone(
    backbone_recipe: BackboneRecipe, weights: str, *, in_channels: int = 3
) -> ResNet:
    """Build the backbone of a recipe.

    Args:
        backbone_recipe: Backbone section of the recipe.
        weights: Weights that replace those of the section.
        in_channels: Number of image channels.

    Raises:
        ResnetTasksError: If the name, the weights or an option does not fit.
    """
    shape = get_backbone_shape(backbone_recipe)
    if isinstance(shape, ResNetSpec):
        shape.check_weights(backbone_recipe.weights)  # also if `weights` replaces them
    backbone = ResNet(
        shape,
        weights=weights,
        in_channels=in_channels,
        frozen_stages=backbone_recipe.frozen_stages,
        norm=backbone_recipe.norm,
        output_stride=backbone_recipe.output_stride,
        drop_path=backbone_recipe.drop_path,
        gradient_checkpointing=backbone_recipe.gradient_checkpointing,
        accept_license=backbone_recipe.accept_license,
    )
    if not backbone_recipe.contract_dilation:
        backbone.expand_dilation()
    return backbone


def get_backbone_shape(backbone_recipe: BackboneRecipe) -> str | ResNetSpec:
    """Return the name of a backbone variant, or its specification if the recipe has layers."""
    return (
        backbone_recipe.name
        if backbone_recipe.layers is None
        else ResNetSpec(backbone_recipe.layers, backbone_recipe.block)
    )


def select_unloaded_weights(recipe: Recipe) -> str:
    """Return the value of `weights` that builds a recipe's model without loading its weights.

    A backbone with `none`, for a recipe without pretrained weights, cannot be frozen.
    """
    has_weights = recipe.backbone.weights != "none" or recipe.model_weights is not None
    is_extended = recipe.extend is not None and bool(recipe.extend.heads)
    return "unloaded" if has_weights or is_extended else "none"


def get_weights_report(model: TaskModel) -> LoadReport | None:
    """Return the report on the weights loaded into a model's backbone; None if none were loaded."""
    report: LoadReport | None = getattr(model.backbone, "report", None)
    return report


def apply_normalization(model: TaskModel, recipe: Recipe) -> None:
    """Set the model's normalization constants to those of the recipe, if it states any."""
    constants = recipe.data.normalize
    if isinstance(constants, NormalizeRecipe):
        model.set_normalization(constants.mean, constants.std)


def _build_heads(
    recipe: Recipe, labels: Labels, backbone: ResNet, pyramid: FeaturePyramid | None
) -> dict[str, Head]:
    """Build the heads of a recipe on the levels of its backbone and its pyramid.

    Raises:
        RecipeError: If any head cannot be built; lists the problems of all heads, one per line.
    """
    specs = {**backbone.specs, **({} if pyramid is None else pyramid.specs)}
    heads: dict[str, Head] = {}
    needed_variants: dict[str, ExtraLevels] = {}
    problems = _find_whole_image_heads(recipe)
    measured = find_measured_weights(recipe)
    for name, head in recipe.heads.items():
        options = {**head.options, "class_weights": None} if name in measured else head.options
        try:
            heads[name] = get_head_class(name, head)(specs, labels.heads[name].classes, options)
        except StrideError as error:
            others = describe_dilated_heads(recipe, labels, backbone, name)
            problems.append(f"recipe {recipe.name}: heads.{name}: {error}{others}")
        except HeadError as error:
            if isinstance(error, PyramidVariantError):
                needed_variants[name] = error.needed
            problems.append(f"recipe {recipe.name}: heads.{name}: {error}")
    if conflict := _describe_conflict(recipe, specs, heads, needed_variants):
        raise RecipeError(conflict)
    if pyramid is not None and not problems:
        read = {level for head in heads.values() for level in head.in_levels}
        if not read & pyramid.specs.keys():
            problems.append(
                f"recipe {recipe.name}: pyramid: no head reads {', '.join(pyramid.specs)}; remove "
                "the key pyramid"
            )
    if problems:
        raise RecipeError("\n".join(problems))
    return heads


def _describe_conflict(
    recipe: Recipe,
    specs: Mapping[str, FeatureSpec],
    heads: Mapping[str, Head],
    needed_variants: Mapping[str, ExtraLevels],
) -> str:
    """Describe heads that need different extra levels of the shared pyramid; "" if there are none.

    Args:
        recipe: Recipe with the shared pyramid.
        specs: Levels of the backbone and of the shared pyramid.
        heads: Heads that fit the shared pyramid.
        needed_variants: Variant that each other head needs.
    """
    variants: dict[str, str] = dict(needed_variants)
    for name, head in heads.items():
        if variant := next(filter(None, (specs[level].variant for level in head.in_levels)), None):
            variants[name] = variant
    if len(set(variants.values())) < 2:
        return ""
    needs = " and ".join(
        f"heads.{name} ({recipe.heads[name].type}) needs {variants[name]} ones"
        for name in recipe.heads
        if name in variants
    )
    return (
        f"recipe {recipe.name}: pyramid: one shared pyramid has extra levels of one kind, but "
        f"{needs}; remove the key pyramid, so that each head computes its own"
    )


def _find_whole_image_heads(recipe: Recipe) -> list[str]:
    """Return problems of heads that classify whole images in a recipe with tiles or windows."""
    if recipe.sliding is None:
        return []
    cause = "evaluation.sliding" if recipe.data.tiles is None else "data.tiles"
    return [
        f"recipe {recipe.name}: heads.{name} classifies whole images, but {cause} "
        f"cuts them into parts; remove {cause} or the head"
        for name, head in recipe.heads.items()
        if get_head_task(name, head).is_whole_image
    ]


def _build_shared_pyramid(
    recipe: Recipe, labels: Labels, backbone: ResNet
) -> FeaturePyramid | None:
    """Build the pyramid of the recipe on C2..C5.

    Raises:
        RecipeError: If the backbone's strides do not double from level to level.
    """
    if recipe.pyramid is None:
        return None
    levels = {level: spec for level, spec in backbone.specs.items() if level != "C1"}
    try:
        return FeaturePyramid(
            levels, recipe.pyramid.channels, extra_levels=recipe.pyramid.extra_levels
        )
    except StrideError as error:
        others = describe_dilated_heads(recipe, labels, backbone)
        raise RecipeError(f"recipe {recipe.name}: pyramid: {error}{others}") from None
