"""The errors that a user can cause, each a single sentence that says what to do.

Every message says what is wrong, where, what was given, what is allowed and the remedy. The command
line prints them without a traceback; anything else that escapes is a defect of this package.
"""

from __future__ import annotations


class ResnetTasksError(Exception):
    """Base class of all errors that a user of this package can cause and mend."""


class RecipeError(ResnetTasksError):
    """A recipe or an override is wrong; the message lists every problem found."""


class DataError(ResnetTasksError):
    """An image, an annotation file or a data folder is wrong."""


class ImageError(DataError):
    """An image, or its label map, cannot be read; training may leave it out.

    Attributes:
        image_id: Of the image in its data set.
        file: Of the image.
    """

    def __init__(self, message: str, image_id: int | str = "", file: str = "") -> None:
        super().__init__(message)
        self.image_id = image_id
        self.file = file


class WeightsError(ResnetTasksError):
    """Weights cannot be found, read, or do not fit the backbone."""


class HeadError(ResnetTasksError):
    """A head's options or the features it is built on do not fit."""


class RunError(ResnetTasksError):
    """A run folder is missing, incomplete, or in use."""


class NonFiniteLossError(ResnetTasksError):
    """A loss or gradient became NaN or infinite; the message names images and losses by head."""


class MemoryLimitError(ResnetTasksError):
    """The GPU's or the machine's memory is too small; the message names the settings to change."""


class HubError(ResnetTasksError):
    """A model hub cannot be reached, refuses, or holds something that is no run."""
