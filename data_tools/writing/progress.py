"""Progress reports of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


class EstimatedCounter:
    """Counter of images whose number is unknown until the files that list them have been read.

    The number is estimated from the part of the files that has been read.

    Args:
        sizes: Sizes of the files in bytes, in the order of reading.
        progress: Function called after each image; None for no reports.
    """

    def __init__(self, sizes: Sequence[int], progress: Progress | None) -> None:
        self._sizes, self._progress = sizes, progress
        self._done, self._num_files = 0, 0

    def add_image(self, fraction: float) -> None:
        """Count one image.

        Args:
            fraction: Fraction of the current file up to the end of the image, above 0, at most 1.
        """
        self._done += 1
        num_bytes = sum(self._sizes[: self._num_files]) + fraction * self._sizes[self._num_files]
        self._report(round(self._done * sum(self._sizes) / num_bytes))

    def finish_file(self) -> None:
        """Proceed to the next file; after the last one, report the exact total."""
        self._num_files += 1
        if self._num_files == len(self._sizes):
            self._report(self._done)

    def _report(self, total: int) -> None:
        if self._progress is not None:
            self._progress(self._done, max(self._done, total))
