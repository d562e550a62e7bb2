"""Datasets of a recipe: whole images, or tiles of them for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.assemble.heads import get_head_task
from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.schema.data import IntensityRecipe, SourceRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.tasks import Task


def build_dataset(
    recipe: Recipe, files: list[CocoFile], categories: CategoryMap, *, training: bool = False
) -> CocoDataset:
    """Build the dataset of the given files as the recipe prepares it; augment if `training`."""
    data = recipe.data
    tasks = [get_head_task(name, head) for name, head in recipe.heads.items()]
    dataset = CocoDataset(
        files,
        categories=categories,
        fields=sorted({field for task in tasks for field in task.fields}),
        resize=build_resize(recipe),
        intensity=build_recipe_intensity(recipe),
        channels=data.channels,
        augment=Augmentation(recipe.augment, data.channels)
        if training and recipe.augment
        else None,
        seed=recipe.training.seed,
        cache=data.cache,
    )
    dataset = dataset.with_limit(data.max_pixels)
    if not training:
        return dataset
    sources = _match_sources(files, data.train)
    weighted = any(source.weight != 1 for source in sources)
    weights = [source.weight for source in sources] if weighted else None
    dataset = dataset.with_sources(weights, _list_declared_categories(sources, categories))
    if data.repeat_factor is not None:
        dataset = dataset.with_repeated_rare_classes(data.repeat_factor)
    if data.copy_paste is not None:
        _require_copy_paste_support(tasks, files)
        pasting = data.copy_paste
        dataset = dataset.with_copy_paste(
            CopyPaste(pasting.p, pasting.fraction, pasting.min_visible)
        )
    if data.unreadable_images == "skip":
        dataset = dataset.with_unreadable_image_limit(data.unreadable_images_limit)
    return dataset.with_scales(data.scales)


def build_training_samples(recipe: Recipe, images: CocoDataset) -> CocoDataset | TiledDataset:
    """Return the training samples: whole images, or tiles of them if the recipe has `data.tiles`.

    Args:
        recipe: Recipe with or without `data.tiles`.
        images: Training split, as built by `build_dataset`.

    Raises:
        DataError: If a semantic map cannot be read, or no tile contains any training target.
    """
    part = recipe.data.tiles
    if part is None:
        return images
    windows = WindowGrid(part.height, part.width, part.overlap)
    cut = Tiling(windows, min_visible=part.min_visible, empty=part.empty)
    return TiledDataset(images, cut, cache=recipe.data.cache)


def build_resize(recipe: Recipe) -> Resize | None:
    """Return the resize step of the recipe."""
    resize = recipe.data.resize
    return Resize(resize.height, resize.width, resize.keep_ratio) if resize else None


def build_recipe_intensity(recipe: Recipe) -> Intensity:
    """Return the intensity step of the recipe."""
    return build_intensity(recipe.data.intensity)


def build_intensity(step: IntensityRecipe) -> Intensity:
    """Return the data pipeline's form of an intensity step."""
    return Intensity(
        step.type, step.level, step.width, step.low, step.high, per_channel=step.per_channel
    )


def _require_copy_paste_support(tasks: Sequence[Task], files: Sequence[CocoFile]) -> None:
    """Check that the data has masks to paste and that no head classifies whole images.

    Raises:
        RecipeError: If either condition is violated.
    """
    if any(task.is_whole_image for task in tasks):
        raise RecipeError(
            "data.copy_paste changes the content of an image, so that its image-level labels "
            "become wrong; remove data.copy_paste or the classifier"
        )
    if not any("masks" in file.annotated for file in files):
        raise RecipeError(
            "data.copy_paste needs masks, but no file under data.train annotates them; remove "
            "data.copy_paste"
        )


def _match_sources(
    files: Sequence[CocoFile], sources: Sequence[SourceRecipe]
) -> list[SourceRecipe]:
    """Return the source that each file was read for; folds may have excluded some sources."""
    # One iterator, because both keep the recipe order: paths with equal ends stay distinct.
    remaining = iter(sources)
    return [
        next(source for source in remaining if _is_source_file(file.path, source)) for file in files
    ]


def _is_source_file(path: Path, source: SourceRecipe) -> bool:
    parts = Path(source.annotations).parts
    return path.parts[-len(parts) :] == parts


def _list_declared_categories(
    sources: Sequence[SourceRecipe], categories: CategoryMap
) -> list[tuple[str, ...] | None]:
    """Return the categories that each training source declares; None if it declares none.

    Raises:
        RecipeError: If a declared category is not a category of the dataset.
    """
    for source in sources:
        for category in source.categories or ():
            if category not in categories.names:
                hint = suggest_nearest(category, categories.names)
                raise RecipeError(
                    f"data.train: categories of {source.annotations}: {category!r} is not in the "
                    f"dataset ({', '.join(categories.names)}){hint}"
                )
    return [source.categories for source in sources]
