"""The samples of a recipe, prepared as it says: whole images, or for training tiles of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.assemble.heads import get_head_class
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
from resnet_tasks.structures.tasks import CLASSIFICATION, Task


def build_dataset(
    recipe: Recipe, files: list[CocoFile], categories: CategoryMap, *, training: bool = False
) -> CocoDataset:
    """Samples of the given files, prepared as the recipe says; augmented when `training`."""
    data = recipe.data
    tasks = [get_head_class(name, head).task for name, head in recipe.heads.items()]
    dataset = CocoDataset(
        files,
        categories=categories,
        fields=sorted({field for task in tasks for field in task.target_fields}),
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
    """What training learns from: the images, or tiles of them where the recipe says so.

    Args:
        recipe: With `data.tiles` or without.
        images: The training split, of `build_dataset`.

    Raises:
        DataError: If a semantic map cannot be read, or no tile holds anything to learn.
    """
    part = recipe.data.tiles
    if part is None:
        return images
    windows = WindowGrid(part.height, part.width, part.overlap)
    cut = Tiling(windows, min_visible=part.min_visible, empty=part.empty)
    return TiledDataset(images, cut, cache=recipe.data.cache)


def build_resize(recipe: Recipe) -> Resize | None:
    """The resize step of the recipe."""
    resize = recipe.data.resize
    return Resize(resize.height, resize.width, resize.keep_ratio) if resize else None


def build_recipe_intensity(recipe: Recipe) -> Intensity:
    """The intensity step of the recipe."""
    return build_intensity(recipe.data.intensity)


def build_intensity(step: IntensityRecipe) -> Intensity:
    """An intensity step as the data pipeline takes it."""
    return Intensity(
        step.type, step.level, step.width, step.low, step.high, per_channel=step.per_channel
    )


def _require_copy_paste_support(tasks: Sequence[Task], files: Sequence[CocoFile]) -> None:
    """Objects can be pasted, and what they are pasted into stays true.

    Raises:
        RecipeError: Otherwise.
    """
    if CLASSIFICATION in tasks:
        raise RecipeError(
            "data.copy_paste changes what an image shows, so that its labels as a whole no longer "
            "hold; take data.copy_paste or the classifier out"
        )
    if not any("masks" in file.annotated for file in files):
        raise RecipeError(
            "data.copy_paste needs masks, but no file under data.train annotates them; take it out"
        )


def _match_sources(
    files: Sequence[CocoFile], sources: Sequence[SourceRecipe]
) -> list[SourceRecipe]:
    """The sources that files were read for; a fold may have left some of them out."""
    # Both are in the recipe's order, so that two paths that end alike are told apart.
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
    """The categories that each training source declares; None where it leaves that to its file.

    Raises:
        RecipeError: If one is no category of the data set.
    """
    for source in sources:
        for category in source.categories or ():
            if category not in categories.names:
                hint = suggest_nearest(category, categories.names)
                raise RecipeError(
                    f"data.train: categories of {source.annotations}: {category!r} is none of the "
                    "data "
                    f"set ({', '.join(categories.names)}){hint}"
                )
    return [source.categories for source in sources]
