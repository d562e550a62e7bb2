"""Check for leaks between splits: images of val and test must not have been trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.assemble.split_files import Split, find_recipe_data, get_sources
from resnet_tasks.data.splits.leaks import (
    ImageCollection,
    ImageList,
    Leak,
    find_leak,
    read_image_names,
)
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.schema.recipe import Recipe


def require_no_leaks(
    recipe: Recipe,
    train: Sequence[ImageCollection],
    val: Sequence[ImageCollection],
    data_root: Path | None = None,
) -> list[str]:
    """Check that no image and no group is in train and also in val or test.

    The files under `data.test` are compared if they exist. Only their image lists are read, not
    their annotations.

    Returns:
        One sentence for each pair of splits that shares images or groups, if `data.allow_leaks` is
        set.

    Raises:
        DataError: If splits share images or groups; the message lists groups, images and their
            numbers.
    """
    leaks: list[tuple[Split, Leak]] = [("val", find_leak(train, val))]
    if recipe.data.test:
        leaks.append(("test", find_leak(train, _read_images(recipe, "test", data_root))))
    return _describe_leaks(recipe, leaks)


def require_unseen(
    recipe: Recipe, split: Split, files: Sequence[ImageCollection], data_root: Path | None = None
) -> None:
    """Check that an evaluated split shares nothing with `data.train`, unless it is the train split.

    Raises:
        DataError: If they share images or groups and `data.allow_leaks` is off; see
            `require_no_leaks`.
    """
    # Folds never share images or groups.
    if split == "train" or (split == "val" and recipe.data.folds is not None):
        return
    if not recipe.data.allow_leaks:
        _describe_leaks(
            recipe, [(split, find_leak(_read_images(recipe, "train", data_root), files))]
        )


def _describe_leaks(recipe: Recipe, leaks: Sequence[tuple[Split, Leak]]) -> list[str]:
    descriptions = [
        f"data.train and data.{split} share {leak.describe('train', split)}"
        for split, leak in leaks
        if leak
    ]
    if descriptions and not recipe.data.allow_leaks:
        raise DataError(
            f"recipe {recipe.name}: {'; '.join(descriptions)}; results on training images do not "
            "show how the model performs on new data: split again (`resnet-tasks data split FILE "
            "--out DIR --by group`), or accept the leak with data.allow_leaks: true"
        )
    return [f"leak: {description}; accepted by data.allow_leaks" for description in descriptions]


def _read_images(recipe: Recipe, split: Split, data_root: Path | None) -> list[ImageList]:
    folder = find_recipe_data(recipe, data_root)
    image_sets = [
        read_image_names(
            folder / source.annotations,
            None if source.images is None else folder / source.images,
        )
        for source in get_sources(recipe, split)
    ]
    return [image_set for image_set in image_sets if image_set is not None]
