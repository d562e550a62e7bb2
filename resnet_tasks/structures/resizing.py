"""Bilinear resizing of arrays that are numpy arrays or torch tensors, without importing torch.

It is separate from `arrays`, because the evaluation of results files must not import OpenCV.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import cv2
import numpy as np

from resnet_tasks.structures.arrays import describe_type


@singledispatch
def flip_and_resize(dense: Any, flips: tuple[int, ...], size: tuple[int, int]) -> Any:
    """Convert `(C, h, w)` values to float32, flip them, then resize them bilinearly.

    The resize maps pixel centers at half-integers.

    Args:
        dense: `(C, h, w)` array.
        flips: Axes to flip: 0 for rows, 1 for columns.
        size: (height, width) of the result.
    """
    raise TypeError(f"{describe_type(dense)} (flips {flips}, size {size})")


@flip_and_resize.register
def _(dense: np.ndarray, flips: tuple[int, ...], size: tuple[int, int]) -> Any:
    values = np.flip(dense.astype(np.float32, copy=False), tuple(axis + 1 for axis in flips))
    if values.shape[1:] == size:
        return values
    planes = [
        cv2.resize(np.ascontiguousarray(plane), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        for plane in values
    ]
    return np.stack(planes)
