"""COCO files of a recipe's splits, with support for cross-validation folds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.splits.splitting import Folds
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.data_root import get_data_root
from resnet_tasks.recipe.schema.data import SourceRecipe
from resnet_tasks.recipe.schema.recipe import Recipe

Split = Literal["train", "val", "test"]


def find_recipe_data(recipe: Recipe, data_root: Path | None = None) -> Path:
    """Return the data folder that `data.root` names.

    Args:
        recipe: Recipe whose data folder is returned.
        data_root: Folder that holds the datasets; default `$RESNET_TASKS_DATA`, else `./data`.

    Raises:
        DataError: If the folder does not exist.
    """
    folder = get_data_root(data_root) / recipe.data.root  # an absolute data.root replaces the base
    if not folder.is_dir():
        raise DataError(
            f"recipe {recipe.name}: its data folder {folder} does not exist; create it with "
            f"`resnet-tasks data prepare {recipe.data.root} --source DIR --out {folder}` (or "
            "`data convert`, see the header of the recipe), or give another folder with "
            "--data-root"
        )
    return folder


def read_split(recipe: Recipe, split: Split, data_root: Path | None = None) -> list[CocoFile]:
    """Read the COCO files of one split.

    Raises:
        DataError: If a file is missing or invalid, or the recipe has no such split.
    """
    sources = get_sources(recipe, split)
    folder = find_recipe_data(recipe, data_root)
    if not sources:
        raise DataError(
            f"recipe {recipe.name} names no files under data.{split}; add them or choose another "
            "split"
        )
    return read_sources(recipe, split, folder)


def read_sources(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    """Read the COCO files of a split from a given data folder.

    Raises:
        DataError: If a file is missing or invalid, or the folds differ from those that the run was
            trained with.
    """
    folds = recipe.data.folds
    if folds is None or split == "test":
        return _read_undivided(recipe, split, folder)
    actual_folds = Folds.from_files(
        _read_undivided(recipe, "train", folder), folds.count, seed=folds.seed
    )
    if folds.digest not in (None, actual_folds.digest):
        raise DataError(
            f"recipe {recipe.name}: the files under data.train are divided into other folds "
            f"({actual_folds.digest}) than when the run was started ({folds.digest}), so that "
            "training images of the run may be held out; restore the original files"
        )
    return (
        actual_folds.exclude_fold(folds.held_out)
        if split == "train"
        else actual_folds.select_fold(folds.held_out)
    )


def get_sources(recipe: Recipe, split: Split) -> tuple[SourceRecipe, ...]:
    """Return the sources of a split; with `data.folds` those of val are the sources of train.

    Raises:
        DataError: If the name is not that of a split.
    """
    if split not in get_args(Split):
        raise DataError(f"a recipe has the splits {', '.join(get_args(Split))}, not {split!r}")
    name = "train" if split == "val" and recipe.data.folds is not None else split
    sources: tuple[SourceRecipe, ...] = getattr(recipe.data, name)
    return sources


def merge_categories(files: list[CocoFile]) -> CategoryMap:
    """Return the common category list of several files.

    Raises:
        DataError: If the files disagree.
    """
    return CategoryMap.merge([file.categories for file in files])


def divide_into_folds(recipe: Recipe, data_root: Path | None = None) -> Folds:
    """Return the folds of a recipe's training data.

    Raises:
        DataError: If a file is missing or invalid, or there are fewer groups than folds.
    """
    folds = recipe.data.folds
    assert folds is not None, "the recipe has folds"
    files = _read_undivided(recipe, "train", find_recipe_data(recipe, data_root))
    return Folds.from_files(files, folds.count, seed=folds.seed)


def add_fold_digest(recipe: Recipe, data_root: Path | None = None) -> Recipe:
    """Return the recipe with the digest of its folds, if it has folds and states no digest yet.

    Raises:
        DataError: If a file is missing or invalid, or there are fewer groups than folds.
    """
    folds = recipe.data.folds
    if folds is None or folds.digest is not None:
        return recipe
    digested = folds.model_copy(update={"digest": divide_into_folds(recipe, data_root).digest})
    data = recipe.data.model_copy(update={"folds": digested})
    return recipe.model_copy(update={"data": data})


def _read_undivided(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    sources: tuple[SourceRecipe, ...] = getattr(recipe.data, split)
    return [
        read_coco(
            folder / source.annotations,
            images_root=None if source.images is None else folder / source.images,
            annotated=source.annotated,
            allow_outside=source.allow_outside,
        )
        for source in sources
    ]
