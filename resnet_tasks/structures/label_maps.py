"""Resizing of label maps without mixing their values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def resize_labels(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize label maps, masks or images by the nearest pixel center, without mixing values.

    Pixel i of n takes the source pixel of m that contains its center, (i + 1/2) m / n. A center
    between two source pixels takes the second one. The indices are computed in integers: OpenCV's
    `INTER_NEAREST` takes the pixel at the corner instead, and `INTER_NEAREST_EXACT` of OpenCV 5.0
    is one source pixel off at such ties.

    Args:
        labels: `(h, w)` or `(h, w, C)` values of any type.
        size: New (height, width) in pixels.
    """
    if labels.shape[:2] == size:
        return labels
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape[:2], strict=True)
    )
    if size[0] <= labels.shape[0]:  # the shrinking axis first, so that less is copied
        return np.asarray(labels.take(rows, axis=0).take(columns, axis=1))
    return np.asarray(labels.take(columns, axis=1).take(rows, axis=0))
