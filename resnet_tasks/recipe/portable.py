"""Recipes for others' eyes: without the paths of this machine."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

from resnet_tasks.recipe.schema import Recipe, SourceRecipe

PUBLIC = ("none", "imagenet", "timm:", "torchvision:", "hf-hub:", "https:", "http:")
"""What weights that are no file of this machine begin with."""


def portable(recipe: Recipe) -> Recipe:
    """The recipe with files and folders of this machine by their bare names.

    A data folder below `--data-root` keeps its path. Plugins are left as they are.
    """
    data = recipe.data
    sources = {
        split: tuple(_portable_source(each) for each in getattr(data, split))
        for split in ("train", "val", "test")
    }
    data = data.model_copy(update={"root": _below(data.root), **sources})
    weights = recipe.backbone.weights
    backbone = recipe.backbone.model_copy(update={"weights": _portable_weights(weights)})
    whole = recipe.model_weights
    if isinstance(whole, str):
        whole = _portable_weights(whole)
    elif whole is not None:
        whole = whole.model_copy(update={"source": _portable_weights(whole.source)})
    changed = {"data": data, "backbone": backbone, "model_weights": whole}
    return recipe.model_copy(update=changed)


def _portable_source(source: SourceRecipe) -> SourceRecipe:
    images = None if source.images is None else _below(source.images)
    return source.model_copy(update={"annotations": _below(source.annotations), "images": images})


def _portable_weights(spec: str) -> str:
    return spec if spec.startswith(PUBLIC) else _bare(spec)


def _below(path: str) -> str:
    """A path that starts from a known folder as it is, any other by its name."""
    is_absolute = PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive != ""
    is_outside = path.startswith("~") or ".." in PureWindowsPath(path).parts
    return _bare(path) if is_absolute or is_outside else path


def _bare(path: str) -> str:
    return PureWindowsPath(path).name or "data"
