"""Removal of this machine's paths from recipes that are shared."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Any

from resnet_tasks.files.safe_names import is_machine_path
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.data import SourceRecipe
from resnet_tasks.recipe.schema.recipe import Recipe

PUBLIC = ("none", "imagenet", "timm:", "torchvision:", "hf-hub:", "https:", "http:")
"""Prefixes of weight specs that are not files of this machine."""


def make_portable(recipe: Recipe) -> Recipe:
    """Reduce absolute paths and paths outside known folders to their last component.

    A data folder below `--data-root` keeps its path. Plugins are not changed.
    """
    values: dict[str, Any] = {
        f"data.{split}": tuple(map(_strip_source_paths, getattr(recipe.data, split)))
        for split in ("train", "val", "test")
    }
    values["data.root"] = _strip_outside_path(recipe.data.root)
    values["backbone.weights"] = _strip_weights_path(recipe.backbone.weights)
    model_weights = recipe.model_weights
    if isinstance(model_weights, str):
        values["model_weights"] = _strip_weights_path(model_weights)
    elif model_weights is not None:
        values["model_weights.source"] = _strip_weights_path(model_weights.source)
    return replace_settings(recipe, values)


def _strip_source_paths(source: SourceRecipe) -> SourceRecipe:
    images = None if source.images is None else _strip_outside_path(source.images)
    return replace_settings(
        source, {"annotations": _strip_outside_path(source.annotations), "images": images}
    )


def _strip_weights_path(spec: str) -> str:
    return spec if spec.startswith(PUBLIC) else _get_base_name(spec)


def _strip_outside_path(path: str) -> str:
    """Reduce a path to its name, unless it is relative and stays below a known folder."""
    is_outside = path.startswith("~") or ".." in PureWindowsPath(path).parts
    return _get_base_name(path) if is_machine_path(path) or is_outside else path


def _get_base_name(path: str) -> str:
    return PureWindowsPath(path).name or "data"
