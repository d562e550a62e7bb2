"""Index of the images of several COCO files by dataset position."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import ImageRecord


class ImageIndex:
    """Index of the images of several COCO files, file after file, or of a subset of them.

    Args:
        files: COCO files with the images.
    """

    def __init__(self, files: Sequence[CocoFile]) -> None:
        self._files = tuple(files)
        self._ends = np.cumsum([len(file.images) for file in files], dtype=np.int64)
        self._rows = np.arange(self._ends[-1] if len(files) else 0)
        self._prefixes = _make_prefixes(files)

    def __len__(self) -> int:
        return len(self._rows)

    def select(self, positions: Sequence[int]) -> ImageIndex:
        """Return a subset of the images with the same ids."""
        selection = copy.copy(self)
        selection._rows = self._rows[np.asarray(positions, np.int64)]
        return selection

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the file of image `index`, and its position in the file."""
        row = int(self._rows[index])
        file = int(np.searchsorted(self._ends, row, side="right"))
        return file, row - (int(self._ends[file - 1]) if file else 0)

    def record(self, index: int) -> tuple[CocoFile, ImageRecord]:
        """Return the file with the annotations of image `index`, and its record there."""
        number, row = self.locate(index)
        file = self._files[number]
        return file, file.images[row]

    def image_id(self, index: int) -> int | str:
        """Return the id of image `index`, prefixed with the file name if files share ids."""
        file, row = self.locate(index)
        image_id = self._files[file].images.get_id(row)
        return image_id if self._prefixes is None else f"{self._prefixes[file]}/{image_id}"


def _make_prefixes(files: Sequence[CocoFile]) -> list[str] | None:
    """Return a prefix per file that makes ids unique, or None if they already are."""
    seen_ids: set[int | str] = set()
    for file in files if len(files) > 1 else ():
        file_ids = set(file.annotations)
        if not seen_ids.isdisjoint(file_ids):
            break
        seen_ids |= file_ids
    else:
        return None
    stems = [file.path.stem for file in files]
    if len(set(stems)) == len(stems):
        return stems
    # Files with the same name in different folders, or a file that is listed twice.
    return [f"{stem}-{number}" for number, stem in enumerate(stems, 1)]
