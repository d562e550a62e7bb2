"""Errors that a user can cause. Each message is a single sentence that includes the remedy.

Every message states what is wrong, where, what was given, what is allowed and what to do. The
command line prints it without a traceback. Any other exception is a defect of this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MAX_LISTED = 5
"""Number of values that a message lists; the others are counted."""
MAX_ALLOWED = 20
"""Number of allowed names that a message lists; the others are counted."""
MAX_NAME = 32
"""Number of characters of a name in a summary of many names."""
MAX_QUOTED_NAME = 200
"""Number of characters of a name, key or id that a message quotes; files may hold megabytes."""
MAX_QUOTED_PATH = 1000
"""Number of characters of a path that a message quotes."""
MAX_MESSAGE = 16_000
"""Number of characters of one message on the console."""


class ResnetTasksError(Exception):
    """Base class of all errors that a user of this package can cause and fix."""


class RecipeError(ResnetTasksError):
    """Invalid recipe or override; the message lists every problem."""


class NotRecipeError(RecipeError):
    """Dataset, run folder or other file in place of a recipe.

    Attributes:
        source: Path that may belong to a dataset in a format of `data convert`, which the message
            does not name; None if the message is complete.
    """

    def __init__(self, message: str, source: Path | None = None) -> None:
        super().__init__(message)
        self.source = source


class DataError(ResnetTasksError):
    """Invalid image, annotation file or data folder."""


class ImageError(DataError):
    """Unreadable image or label map; training can skip it.

    Attributes:
        image_id: Id of the image in its dataset.
        file: Path of the image file.
    """

    def __init__(self, message: str, image_id: int | str = "", file: str = "") -> None:
        super().__init__(message)
        self.image_id = image_id
        self.file = file


class WeightsError(ResnetTasksError):
    """Missing or unreadable weights, or weights that do not fit the model."""


class HeadError(ResnetTasksError):
    """Invalid options of a head, or features that a head cannot be built on."""


class StrideError(HeadError):
    """Levels whose strides a head cannot be built on, as those of a dilated backbone."""


class RunError(ResnetTasksError):
    """Missing or incomplete run folder, or one that another process uses."""


class NonFiniteLossError(ResnetTasksError):
    """NaN or infinite loss or gradient; the message names the images and the losses by head."""


class MemoryLimitError(ResnetTasksError):
    """Too little memory of the GPU or the machine; the message names the settings to change."""


class FormatVersionError(RunError):
    """File of a run folder in a newer format version, or in an older one without conversion.

    Attributes:
        is_newer: Whether the version is newer than those that this package reads.
    """

    def __init__(self, message: str, *, is_newer: bool) -> None:
        super().__init__(message)
        self.is_newer = is_newer


class HubError(ResnetTasksError):
    """Model hub that cannot be reached or refuses, or a repository that is not a run."""


def get_first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def format_error(error: BaseException) -> str:
    """Return the message of an exception on one line, or the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def format_list(values: Iterable[object], limit: int = MAX_LISTED) -> str:
    """Format the first values, followed by the number of the others if there are more."""
    texts = [str(value) for value in values]
    if len(texts) <= limit:
        return ", ".join(texts) or "none"
    return f"{', '.join(texts[:limit])}, and {len(texts) - limit} more"


def format_allowed(names: Iterable[object]) -> str:
    """Format the names that a message offers instead of a wrong one; of many, the first ones."""
    return format_list(names, MAX_ALLOWED)


def shorten_name(name: str, limit: int = MAX_NAME) -> str:
    """Return a name on one line for a summary; the middle of a long name is replaced by dots.

    The end is kept, because long class names often differ only there.
    """
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(line) <= limit:
        return line
    start = (limit - 3) // 2
    return f"{line[:start]}...{line[start + 3 - limit :]}"


def limit_name(name: object, limit: int = MAX_QUOTED_NAME) -> str:
    """Return a name as it is; only if it is too long for a message, it is shortened."""
    text = str(name)
    return text if len(text) <= limit else shorten_name(text, limit)


def limit_path(path: object) -> str:
    """Return a path as it is; only if it is too long for a message, it is shortened."""
    return limit_name(path, MAX_QUOTED_PATH)


def limit_message(message: str) -> str:
    """Cut a message that is too long for the console, and add the number of missing characters."""
    if len(message) <= MAX_MESSAGE:
        return message
    return f"{message[:MAX_MESSAGE]}... ({len(message) - MAX_MESSAGE:,} characters more)"
