"""Progress reports of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

Progress = Callable[[int, int], None]
"""Function called with (done, total) after each image."""

Item = TypeVar("Item")


def track_splits(
    splits: Mapping[str, Collection[Item]], progress: Progress | None
) -> dict[str, Iterator[Item]]:
    """Return the images of every split as iterators that report the progress over all splits.

    Args:
        splits: Split -> images.
        progress: Function called after each image; None for no reports.
    """
    count = ProgressCounter(sum(map(len, splits.values())), progress)
    return {split: count.track(images) for split, images in splits.items()}


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

    def track(self, images: Iterable[tuple[Item, float]]) -> Iterator[Item]:
        """Yield the images of a file; each counts as done when the next one is requested.

        After the last file, the exact total is reported.

        Args:
            images: Images, each with the fraction of the file up to its end, above 0, at most 1.
        """
        for image, fraction in images:
            yield image
            self._done += 1
            current_size = self._sizes[self._num_files]
            num_bytes = sum(self._sizes[: self._num_files]) + fraction * current_size
            self._report(round(self._done * sum(self._sizes) / num_bytes))
        self._num_files += 1
        if self._num_files == len(self._sizes):
            self._report(self._done)

    def _report(self, total: int) -> None:
        if self._progress is not None:
            self._progress(self._done, max(self._done, total))
