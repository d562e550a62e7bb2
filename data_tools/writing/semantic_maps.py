"""Semantic label maps: PNGs whose values are category ids, 0 unlabeled, 255 (65535) void."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_io import write_image
from resnet_tasks.errors import DataError

MAX_8BIT_CATEGORIES = 254


class SemanticMaps:
    """Semantic label maps of one split.

    Args:
        folder: Folder of the JSON; the maps lie in `folder/semantic/SPLIT`.
        split: Name of the split.
        num_categories: Number of categories, whose ids count from 1.

    Attributes:
        pixels: (num_categories + 1,) int64, number of pixels by category id over all maps.
    """

    def __init__(self, folder: Path, split: str, *, num_categories: int) -> None:
        self.pixels = np.zeros(num_categories + 1, dtype=np.int64)
        self._folder = folder
        self._split = split
        self._num_categories = num_categories

    @property
    def void(self) -> int:
        """Value of void pixels."""
        return choose_void_value(self._num_categories)

    def write(self, record: Mapping[str, Any], ids: NDArray[np.integer[Any]]) -> str:
        """Write the label map of an image and return its path relative to the folder.

        Args:
            record: Record of the image in the JSON.
            ids: (height, width) category ids; 0 is unlabeled, `void` is void.

        Raises:
            DataError: If the size differs from that of the image, or a value is not a category id.
        """
        if ids.shape != (record["height"], record["width"]):
            raise DataError(
                f"the label map of {record['file_name']} has size {ids.shape} (height, width), but "
                f"the image has {(record['height'], record['width'])}; both must agree"
            )
        counts = np.bincount(ids.ravel(), minlength=self.void + 1)
        unknown = [int(v) for v in np.flatnonzero(counts) if self._num_categories < v != self.void]
        if unknown:
            raise DataError(
                f"the label map of {record['file_name']} holds {unknown}; allowed: 0 to "
                f"{self._num_categories}, and {self.void} for void"
            )
        self.pixels += counts[: self._num_categories + 1]
        # `with_suffix` would replace the end of names such as `1.2.840`.
        name = Path("semantic", self._split, f"{Path(record['file_name']).stem}.png")
        if (self._folder / name).exists():
            name = name.with_name(f"{name.stem}_{record['id']}.png")
        write_image(self._folder / name, ids.astype(np.uint8 if self.void == 255 else np.uint16))
        return name.as_posix()


def choose_void_value(num_categories: int) -> int:
    """Return the value of void pixels in semantic PNGs: the largest of 8 bits, else of 16 bits."""
    return 255 if num_categories <= MAX_8BIT_CATEGORIES else 65535
