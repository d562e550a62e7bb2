"""The samples of a recipe, prepared as it says: whole pictures, or for training tiles of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.assemble.heads import head_class
from resnet_tasks.data.coco import CategoryMap, CocoFile
from resnet_tasks.data.copy_paste import CopyPaste
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.pixels import Intensity, Resize
from resnet_tasks.data.tiled import Cut, TiledDataset
from resnet_tasks.data.tiles import Windows
from resnet_tasks.data.transforms import Augmentation
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.schema import IntensityRecipe, Recipe, SourceRecipe
from resnet_tasks.registry import did_you_mean
from resnet_tasks.structures import CLASSIFICATION, Task


def build_dataset(
    recipe: Recipe, files: list[CocoFile], categories: CategoryMap, *, training: bool = False
) -> CocoDataset:
    """Samples of the given files, prepared as the recipe says; augmented when `training`."""
    data = recipe.data
    tasks = [head_class(name, head).task for name, head in recipe.heads.items()]
    made = CocoDataset(
        files,
        categories=categories,
        fields=sorted({field for task in tasks for field in task.target_fields}),
        resize=image_resize(recipe),
        intensity=image_intensity(recipe),
        channels=data.channels,
        augment=Augmentation(recipe.augment, data.channels)
        if training and recipe.augment
        else None,
        seed=recipe.training.seed,
        cache=data.cache,
    )
    made = made.with_limit(data.max_pixels)
    if not training:
        return made
    sources = _sources_of(files, data.train)
    weighted = any(source.weight != 1 for source in sources)
    weights = [source.weight for source in sources] if weighted else None
    made = made.with_sources(weights, _looked_for(sources, categories))
    if data.repeat_factor is not None:
        made = made.with_rare_repeated(data.repeat_factor)
    if data.copy_paste is not None:
        _require_pasting(tasks, files)
        pasting = data.copy_paste
        made = made.with_copy_paste(CopyPaste(pasting.p, pasting.share, pasting.min_visible))
    if data.bad_pictures == "skip":
        made = made.skipping_bad_pictures(data.bad_pictures_limit)
    return made.with_scales(data.scales)


def training_samples(recipe: Recipe, pictures: CocoDataset) -> CocoDataset | TiledDataset:
    """What training learns from: the pictures, or tiles of them where the recipe says so.

    Args:
        recipe: With `data.tiles` or without.
        pictures: The training split, of `build_dataset`.

    Raises:
        DataError: If a semantic map cannot be read, or no tile holds anything to learn.
    """
    part = recipe.data.tiles
    if part is None:
        return pictures
    windows = Windows(part.height, part.width, part.overlap)
    cut = Cut(windows, min_visible=part.min_visible, empty=part.empty)
    return TiledDataset(pictures, cut, cache=recipe.data.cache)


def image_resize(recipe: Recipe) -> Resize | None:
    """The resize step of the recipe."""
    resize = recipe.data.resize
    return Resize(resize.height, resize.width, resize.keep_ratio) if resize else None


def image_intensity(recipe: Recipe) -> Intensity:
    """The intensity step of the recipe."""
    return intensity_of(recipe.data.intensity)


def intensity_of(step: IntensityRecipe) -> Intensity:
    """An intensity step as the data pipeline takes it."""
    return Intensity(
        step.type, step.level, step.width, step.low, step.high, per_channel=step.per_channel
    )


def _require_pasting(tasks: Sequence[Task], files: Sequence[CocoFile]) -> None:
    """Objects can be pasted, and what they are pasted into stays true.

    Raises:
        RecipeError: Otherwise.
    """
    if CLASSIFICATION in tasks:
        raise RecipeError(
            "data.copy_paste changes what a picture shows, so that its labels as a whole no longer "
            "hold; take data.copy_paste or the classifier out"
        )
    if not any("masks" in file.annotated for file in files):
        raise RecipeError(
            "data.copy_paste needs masks, but no file under data.train annotates them; take it out"
        )


def _sources_of(files: Sequence[CocoFile], sources: Sequence[SourceRecipe]) -> list[SourceRecipe]:
    """The sources that files were read for; a fold may have left some of them out."""
    # Both are in the recipe's order, so that two paths that end alike are told apart.
    left = iter(sources)
    return [next(each for each in left if _ends_with(file.path, each)) for file in files]


def _ends_with(path: Path, source: SourceRecipe) -> bool:
    parts = Path(source.annotations).parts
    return path.parts[-len(parts) :] == parts


def _looked_for(
    sources: Sequence[SourceRecipe], categories: CategoryMap
) -> list[tuple[str, ...] | None]:
    """The categories that each training source declares; None where it leaves that to its file.

    Raises:
        RecipeError: If one is no category of the data set.
    """
    for source in sources:
        for each in source.categories or ():
            if each not in categories.names:
                hint = did_you_mean(each, categories.names)
                raise RecipeError(
                    f"data.train: categories of {source.annotations}: {each!r} is none of the data "
                    f"set ({', '.join(categories.names)}){hint}"
                )
    return [source.categories for source in sources]
