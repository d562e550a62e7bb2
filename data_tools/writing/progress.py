"""How far a conversion is, told while its pictures pass by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[int, int], None]
"""Called with (done, total) after each picture."""


Item = TypeVar("Item")


class ProgressCounter:
    """Tells the progress of a conversion while its pictures pass by.

    Args:
        total: Pictures of all splits.
        progress: Called after each; None tells nobody.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def track(self, pictures: Iterable[Item]) -> Iterator[Item]:
        """The pictures of a split; each is done when the next one is asked for."""
        for picture in pictures:
            yield picture
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
