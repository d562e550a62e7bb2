"""Commands for a dataset that is given in place of a recipe, by the format of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_tools.layouts import SourceLayout
    from resnet_tasks.errors import NotRecipeError


def complete_message(error: NotRecipeError) -> str:
    """Return the message of an error with the commands for the dataset, if it is one."""
    path = error.source
    if path is None:
        return str(error)
    # Imported here, so that the command line starts without the converters.
    from data_tools.layouts import find_layout, list_dataset_folders

    for folder in [path] if path.is_dir() else list_dataset_folders(path):
        layout = find_layout(folder)
        if layout is None:
            continue
        files = {file.absolute() for file in layout.files}
        if folder == path or path.absolute() in files:
            return _describe(path, folder, layout)
    return str(error)


def _describe(path: Path, folder: Path, layout: SourceLayout) -> str:
    from data_tools.layouts import NAME
    from resnet_tasks.recipe.dataset_hints import RECIPE_BY_CONTENT, format_conversion

    kind = layout.title if path == folder else f"part of {layout.title}"
    recipe = RECIPE_BY_CONTENT[layout.content]
    if any(NAME in option for option in layout.options):
        purpose = f"to train on it, replace {NAME} by the name of a class and"
    elif recipe:
        purpose = "to train on it,"
    else:
        purpose = "it has no annotations to train on; to convert the images for a prediction,"
    title = f"{path} is {kind}, not a recipe; {purpose}"
    needs_split = bool(recipe) and "train" in layout.splits and "val" not in layout.splits
    return format_conversion(
        title, folder, layout.format, recipe, layout.options, needs_split=needs_split
    )
