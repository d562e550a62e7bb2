"""Datasets of a recipe: whole images, or tiles of them for training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resnet_tasks.assemble.heads import get_head_task
from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.rare_classes import compute_repeats
from resnet_tasks.errors import RecipeError, format_allowed
from resnet_tasks.recipe.schema.data import DataRecipe, IntensityRecipe, SourceRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.tasks import Task


def build_dataset(
    recipe: Recipe, files: list[CocoFile], categories: CategoryMap, *, training: bool = False
) -> CocoDataset:
    """Build the dataset of the given files as the recipe prepares it; augment if `training`."""
    data = recipe.data
    tasks = [get_head_task(name, head) for name, head in recipe.heads.items()]
    make_dataset = partial(
        CocoDataset,
        files,
        categories=categories,
        fields=sorted({field for task in tasks for field in task.fields}),
        preparation=build_preparation(recipe),
        cache=data.cache,
    )
    if not training:
        return make_dataset(augmentation=SampleAugmentation(seed=recipe.training.seed))
    sources = _match_sources(files, data.train)
    return make_dataset(
        augmentation=_build_augmentation(recipe, tasks, files),
        epoch_sampler=_build_epoch_sampler(data, files, categories, sources),
        annotated_classes=_list_declared_categories(sources, categories),
        unreadable_image_limit=(
            data.unreadable_images_limit if data.unreadable_images == "skip" else 0.0
        ),
    )


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


def build_preparation(recipe: Recipe) -> Preparation:
    """Return the preparation that turns the images of a recipe into samples."""
    data, resize = recipe.data, recipe.data.resize
    return Preparation(
        data.channels,
        Resize(resize.height, resize.width, resize.keep_ratio) if resize else None,
        build_intensity(data.intensity),
        max_pixels=data.max_pixels,
    )


def build_intensity(step: IntensityRecipe) -> Intensity:
    """Return the data pipeline's form of an intensity step."""
    return Intensity(
        step.type, step.level, step.width, step.low, step.high, per_channel=step.per_channel
    )


def _build_augmentation(
    recipe: Recipe, tasks: Sequence[Task], files: Sequence[CocoFile]
) -> SampleAugmentation:
    """Return the augmentation of the training samples.

    Raises:
        RecipeError: If the augmentation is invalid or the data does not support it.
    """
    data, augment, copy_paste = recipe.data, None, None
    if recipe.augment:
        augment = Augmentation(recipe.augment, data.channels)
    if data.copy_paste is not None:
        _require_copy_paste_support(tasks, files)
        copy_paste = CopyPaste(**data.copy_paste.model_dump())
    return SampleAugmentation(augment, copy_paste, recipe.training.seed)


def _build_epoch_sampler(
    data: DataRecipe,
    files: Sequence[CocoFile],
    categories: CategoryMap,
    sources: Sequence[SourceRecipe],
) -> EpochSampler:
    """Return the sampler of training epochs.

    Args:
        data: Data of the recipe.
        files: Training files.
        categories: Category map of the dataset.
        sources: Source of each file.
    """
    is_weighted = any(source.weight != 1 for source in sources)
    repeats = compute_repeats(
        [file.reindex(categories) for file in files],
        weights=[source.weight for source in sources] if is_weighted else None,
        threshold=data.repeat_factor,
    )
    return EpochSampler(repeats, data.scales)


def _require_copy_paste_support(tasks: Sequence[Task], files: Sequence[CocoFile]) -> None:
    """Check that the data has masks to paste and that no head classifies whole images.

    Raises:
        RecipeError: If either condition is violated.
    """
    if any(task.is_whole_image for task in tasks):
        raise RecipeError(
            "data.copy_paste changes the content of an image, which makes its image-level labels "
            "wrong; remove data.copy_paste or the classifier"
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
    # A single iterator, because files and sources are both in the order of the recipe: each search
    # continues after the previous source, which keeps paths with equal ends distinct.
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
                    f"data.train: categories of {source.annotations}: {category!r} is not a "
                    f"category of the dataset ({format_allowed(categories.names)}){hint}"
                )
    return [source.categories for source in sources]
