"""Recipes that ship with the package, found by short names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.dataset_hints import describe_folder
from resnet_tasks.registry import find_nearest, format_suggestions

ALIASES = {"quickstart": "quickstart/cells_multitask_resnet18"}
"""Alias -> full name of a shipped recipe."""

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = _PACKAGE / "shipped_recipes"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "recipes"
"""Folder of the shipped recipes: inside an installed package, or next to it in a source checkout.

The folder is never imported, so that a folder `recipes` in the working directory cannot replace it.
"""


@dataclass(frozen=True)
class RecipeInfo:
    """One shipped recipe.

    Attributes:
        name: Name or alias that commands accept, such as `medical/bccd_faster_rcnn_resnet18`.
        path: Path of the YAML file.
        summary: First line of the file's header.
    """

    name: str
    path: Path
    summary: str


def list_recipes() -> list[RecipeInfo]:
    """List all shipped recipes, the quickstart first, the others by name."""
    aliases = {name: alias for alias, name in ALIASES.items()}
    recipes = []
    for path in RECIPES.rglob("*.yaml"):
        name = path.relative_to(RECIPES).with_suffix("").as_posix()
        header = read_header(path)
        recipes.append(RecipeInfo(aliases.get(name, name), path, header[0] if header else ""))
    return sorted(recipes, key=lambda recipe: ("/" in recipe.name, recipe.name))


def find_recipe(ref: str | Path) -> Path:
    """Find the file of a recipe.

    Args:
        ref: Path of a YAML file, or a name from `list_recipes`, which may omit the folder if only
            one recipe has this name.

    Raises:
        RecipeError: If it is neither, or several recipes have this name. The message describes a
            dataset or run folder that is given instead, or suggests names.
    """
    path = Path(ref)
    if path.is_file():
        return path
    name = str(ref).removesuffix(".yaml")
    shipped = RECIPES / f"{ALIASES.get(name, name)}.yaml"
    is_inside = RECIPES in shipped.parents and ".." not in shipped.parts
    if is_inside and shipped.is_file():
        return shipped
    recipes = list_recipes()
    same_names = [recipe for recipe in recipes if recipe.path.stem == name]
    if len(same_names) == 1:
        return same_names[0].path
    if same_names:
        raise RecipeError(
            f"several recipes are named {name!r}"
            + format_suggestions([recipe.name for recipe in same_names])
        )
    if "=" in str(ref):
        raise RecipeError(
            f"{str(ref)!r} is an override, but no recipe is given; write the recipe before it: "
            f"resnet-tasks finetune RECIPE {shlex.quote(str(ref))}"
        )
    if path.is_dir():
        raise describe_folder(path)
    names = [recipe.name for recipe in recipes]
    hint = format_suggestions(_suggest_names(name, names)) or f"; recipes: {', '.join(names)}"
    raise RecipeError(
        f"recipe {str(ref)!r} is neither a file nor the name of a shipped recipe{hint}"
    )


def _suggest_names(name: str, names: Sequence[str]) -> list[str]:
    """Suggest the names that contain a word such as `camvid`, else the most similar name."""
    word = name.rpartition("/")[2].lower()
    containing = [full_name for full_name in names if len(word) > 2 and word in full_name]
    if containing:
        return containing
    stems = {full_name.rpartition("/")[2]: full_name for full_name in names}
    close = find_nearest(name, names, cutoff=0.6) or stems.get(find_nearest(word, stems) or "")
    return [close] if close else []


def read_header(path: Path) -> list[str]:
    """Read the comment lines at the start of a recipe, without their `#`."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return lines


def copy_recipe(name: str, target: Path | None = None) -> Path:
    """Copy a shipped recipe, so that the copy can be changed.

    Args:
        name: Path or name that `find_recipe` accepts.
        target: New file, or folder for it (a path without suffix is a folder); default: the working
            directory.

    Returns:
        Path of the new file.

    Raises:
        RecipeError: If the recipe is unknown or the file already exists.
    """
    source = find_recipe(name)
    new = target or Path(source.name)
    if new.is_dir() or not new.suffix:
        new = new / source.name
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        with new.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise RecipeError(f"{new} already exists; choose another target or remove it") from None
    except OSError as error:
        raise RecipeError(f"{new} cannot be written: {error.strerror}") from None
    return new
