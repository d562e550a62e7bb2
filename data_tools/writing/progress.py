"""Progress reports of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[int, int], None]
"""Function called with (done, total) after each image."""


Item = TypeVar("Item")


class ProgressCounter:
    """Counter that reports the progress of a conversion.

    Args:
        total: Number of images in all splits.
        progress: Function called after each image; None for no reports.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def track(self, images: Iterable[Item]) -> Iterator[Item]:
        """Yield the images of a split; each counts as done when the next one is requested."""
        for image in images:
            yield image
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
