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
from resnet_tasks.recipe.replace import replace_settings
from resnet_tasks.recipe.schema.data import SourceRecipe
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.recipe.shipped_recipes import list_recipes

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
        is_shipped = any(shipped.path.stem == recipe.name for shipped in list_recipes())
        command = (
            f"data prepare {recipe.data.root} --source DIR --out {folder}"
            if is_shipped
            else f"data convert FORMAT DIR {folder}"
        )
        raise DataError(
            f"recipe {recipe.name}: the data folder {folder} does not exist; create it with "
            f"`resnet-tasks {command}` (see the header of the recipe), or pass data.root=FOLDER"
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
            f"recipe {recipe.name} has no files under data.{split}; add files or choose another "
            "split"
        )
    return read_sources(recipe, split, folder)


def has_training_files(recipe: Recipe, data_root: Path | None = None) -> bool:
    """Return whether all annotation files under `data.train` and `data.val` exist."""
    folder = get_data_root(data_root) / recipe.data.root
    sources = {*get_sources(recipe, "train"), *get_sources(recipe, "val")}
    return all((folder / source.annotations).is_file() for source in sources)


def read_training_files(
    recipe: Recipe, data_root: Path | None = None
) -> tuple[Recipe, list[CocoFile], list[CocoFile]]:
    """Read the COCO files of train and val, each file once.

    Returns:
        The recipe, with the digest of its folds if it has folds; the files of train; those of val.

    Raises:
        DataError: If a file is missing or invalid, there are fewer groups than folds, or the folds
            differ from those that the run was trained with.
    """
    if recipe.data.folds is None:
        return recipe, read_split(recipe, "train", data_root), read_split(recipe, "val", data_root)
    folds = divide_into_folds(recipe, find_recipe_data(recipe, data_root))
    held_out = recipe.data.folds.held_out
    recipe = replace_settings(recipe, {"data.folds.digest": folds.digest})
    return recipe, folds.exclude_fold(held_out), folds.select_fold(held_out)


def read_sources(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    """Read the COCO files of a split from a given data folder.

    Raises:
        DataError: If a file is missing or invalid, or the folds differ from those that the run was
            trained with.
    """
    if recipe.data.folds is None or split == "test":
        return _read_undivided(recipe, split, folder)
    held_out, folds = recipe.data.folds.held_out, divide_into_folds(recipe, folder)
    return folds.exclude_fold(held_out) if split == "train" else folds.select_fold(held_out)


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


def divide_into_folds(recipe: Recipe, folder: Path) -> Folds:
    """Return the folds of a recipe's training data in a given data folder.

    Raises:
        DataError: If a file is missing or invalid, there are fewer groups than folds, or the folds
            differ from those that the run was trained with.
    """
    settings = recipe.data.folds
    assert settings is not None, "the recipe has folds"
    folds = Folds.from_files(
        _read_undivided(recipe, "train", folder), settings.count, seed=settings.seed
    )
    if settings.digest not in (None, folds.digest):
        raise DataError(
            f"recipe {recipe.name}: the files under data.train are divided into other folds "
            f"({folds.digest}) than when the run was started ({settings.digest}), so images that "
            "the run was trained on may be held out; restore the original files"
        )
    return folds


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
