"""Comments around a written recipe: its format version, and its end.

Recipes without them, such as those that users write, have version 1.
"""

from __future__ import annotations

import re
from pathlib import Path

from resnet_tasks.errors import RecipeError

FORMAT_VERSION = 1
END = "# end of the recipe"
"""Last line; most keys have defaults, so that without it a truncated recipe could be valid."""
_FIRST_LINE = re.compile(r"# format_version: (\d{1,9})\s")


def add_format_version(text: str) -> str:
    """Return the text of a recipe with the comments around it."""
    return f"# format_version: {FORMAT_VERSION}\n{text}{END}\n"


def require_known_format(text: str, path: Path) -> None:
    """Require that this package knows the format version of a recipe, and that it is complete.

    Args:
        text: Text of the recipe.
        path: Path of the recipe, for the message.

    Raises:
        RecipeError: If a newer version wrote it, or its end is missing.
    """
    match = _FIRST_LINE.match(text)
    if match is None:
        return
    if int(match[1]) > FORMAT_VERSION:
        raise RecipeError(
            f"{path} was written by a newer version of resnet_tasks (it has format version "
            f"{match[1]}, this version reads up to {FORMAT_VERSION}); update resnet_tasks"
        )
    if f"\n{END}" not in text:
        raise RecipeError(
            f"{path} is truncated: it lacks the line {END!r}; restore it from a copy, or remove "
            "its first line if all keys are present"
        )
