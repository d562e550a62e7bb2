"""The COCO files of a recipe's splits, which its folds may divide."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from resnet_tasks.data.coco import CategoryMap, CocoFile, read_coco
from resnet_tasks.data.splitting import Folds
from resnet_tasks.errors import DataError
from resnet_tasks.recipe.places import data_base
from resnet_tasks.recipe.schema import Recipe, SourceRecipe

Split = Literal["train", "val", "test"]


def find_data(recipe: Recipe, data_root: Path | None = None) -> Path:
    """The folder that `data.root` names.

    Args:
        recipe: Whose data is looked for.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.

    Raises:
        DataError: If there is no such folder.
    """
    folder = data_base(data_root) / recipe.data.root  # an absolute data.root replaces the base
    if not folder.is_dir():
        raise DataError(
            f"recipe {recipe.name}: its data folder {folder} does not exist; make it with "
            "`resnet-tasks data prepare "
            f"{recipe.data.root} --source DIR --out {folder}` (or `data convert`, see the head of "
            "the recipe), or name another place with --data-root"
        )
    return folder


def read_split(recipe: Recipe, split: Split, data_root: Path | None = None) -> list[CocoFile]:
    """The COCO files of one split.

    Raises:
        DataError: If a file is missing or wrong, or the recipe has no such split.
    """
    sources = sources_of(recipe, split)
    folder = find_data(recipe, data_root)
    if not sources:
        raise DataError(
            f"recipe {recipe.name} names no files under data.{split}; add them or choose another "
            "split"
        )
    return read_sources(recipe, split, folder)


def read_sources(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    """The COCO files of a split, in the folder where its data are.

    Raises:
        DataError: If a file is missing or wrong, or gives other folds than the run was made with.
    """
    folds = recipe.data.folds
    if folds is None or split == "test":
        return _read_whole(recipe, split, folder)
    made = Folds.of(_read_whole(recipe, "train", folder), folds.count, seed=folds.seed)
    if folds.digest not in (None, made.digest):
        raise DataError(
            f"recipe {recipe.name}: the files under data.train are divided into other folds "
            f"({made.digest}) than when the run was started ({folds.digest}), so that pictures it "
            "was trained on may be held out; bring the files back as they were"
        )
    return made.without(folds.held_out) if split == "train" else made.only(folds.held_out)


def sources_of(recipe: Recipe, split: Split) -> tuple[SourceRecipe, ...]:
    """Where the pictures of a split are from: with `data.folds` those of val are from train.

    Raises:
        DataError: If a recipe can have no such split.
    """
    if split not in get_args(Split):
        raise DataError(f"a recipe has the splits {', '.join(get_args(Split))}, not {split!r}")
    name = "train" if split == "val" and recipe.data.folds is not None else split
    sources: tuple[SourceRecipe, ...] = getattr(recipe.data, name)
    return sources


def merged_categories(files: list[CocoFile]) -> CategoryMap:
    """The one category list of several files.

    Raises:
        DataError: If they disagree.
    """
    return CategoryMap.merged([file.categories for file in files])


def divided(recipe: Recipe, data_root: Path | None = None) -> Folds:
    """The folds of a recipe's training data.

    Raises:
        DataError: If a file is missing or wrong, or there are fewer groups than folds.
    """
    folds = recipe.data.folds
    assert folds is not None, "the recipe has folds"
    files = _read_whole(recipe, "train", find_data(recipe, data_root))
    return Folds.of(files, folds.count, seed=folds.seed)


def with_digest(recipe: Recipe, data_root: Path | None = None) -> Recipe:
    """The recipe with the digest of its folds, where it has folds and states none.

    Raises:
        DataError: As in `divided`.
    """
    folds = recipe.data.folds
    if folds is None or folds.digest is not None:
        return recipe
    settled = folds.model_copy(update={"digest": divided(recipe, data_root).digest})
    data = recipe.data.model_copy(update={"folds": settled})
    return recipe.model_copy(update={"data": data})


def _read_whole(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
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
