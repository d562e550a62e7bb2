"""How far a conversion is, told while its images pass by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[int, int], None]
"""Called with (done, total) after each image."""


Item = TypeVar("Item")


class ProgressCounter:
    """Tells the progress of a conversion while its images pass by.

    Args:
        total: Images of all splits.
        progress: Called after each; None tells nobody.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def track(self, images: Iterable[Item]) -> Iterator[Item]:
        """The images of a split; each is done when the next one is asked for."""
        for image in images:
            yield image
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
