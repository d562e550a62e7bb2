"""Albumentations transforms applied to instance masks in windows.

Flips, quarter turns, crops, padding and resizing move or resample the windows. Any other transform
runs on one mask of the full image at a time. Both give the same pixels as `apply_to_mask` on masks
of the full image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import albumentations
import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.augmentation import aligned
from resnet_tasks.structures.instance_masks import InstanceMasks

Params = Mapping[str, Any]
"""Drawn parameters of a transform, with the `shape` of the image before it."""

WindowMove = Callable[[Any, InstanceMasks, Params], InstanceMasks | None]
"""Function of a transform, masks and parameters -> moved masks, or None if it cannot move them."""


def transform_masks(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    """Apply a transform to the masks of an image with the parameters drawn for the image.

    Args:
        transform: Transform of albumentations that changes annotations.
        masks: Masks in pixels of the image before the transform.
        params: Drawn parameters, `transform.get_applied_params()`.

    Returns:
        Masks in pixels of the image after the transform, for the same objects.
    """
    move = _WINDOW_MOVES.get(type(transform))
    moved = None if move is None else move(transform, masks, params)
    return _transform_each(transform, masks, params) if moved is None else moved


def join_masks(masks: InstanceMasks, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the union of the masks, `(h, w)` uint8, 0 or 1.

    Args:
        masks: Masks of an image.
        size: (height, width) of the image.
    """
    union = np.zeros(size, np.uint8)
    for bitmap, (x1, y1, x2, y2) in zip(masks.bitmaps, masks.windows.tolist(), strict=True):
        union[y1:y2, x1:x2] |= bitmap.numpy()
    return union


def _transform_each(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    """Apply a transform to one mask of the full image at a time."""
    size = _get_size(params)
    bitmaps: list[NDArray[np.bool_] | None] = []
    corners = []
    for i, is_annotated in enumerate(masks.annotated.tolist()):
        bitmap, x, y = None, 0, 0
        if is_annotated:
            full = masks.rasterize(i, size).numpy().view(np.uint8)
            # Some transforms return other types than uint8.
            moved = np.ascontiguousarray(transform.apply_to_mask(full, **params) > 0, np.bool_)
            x, y, width, height = cv2.boundingRect(moved.view(np.uint8))
            # A view would keep the full mask in memory.
            bitmap = moved[y : y + height, x : x + width].copy()
        bitmaps.append(bitmap)
        corners.append((x, y))
    return InstanceMasks.from_bitmaps(bitmaps, corners)


def _get_size(params: Params) -> tuple[int, int]:
    """Return (height, width) of the image before the transform."""
    return (int(params["shape"][0]), int(params["shape"][1]))


# --- moves of the windows


def _keep(_: Any, masks: InstanceMasks, __: Params) -> InstanceMasks:
    return masks


def _drop_nothing(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks | None:
    return masks if transform.fill_mask is None or not params["holes"].size else None


def _flip_columns(_: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    return masks.flip(1, _get_size(params))


def _flip_rows(_: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    return masks.flip(0, _get_size(params))


def _transpose(_: Any, masks: InstanceMasks, __: Params) -> InstanceMasks:
    return masks.transpose()


def _turn(masks: InstanceMasks, size: tuple[int, int], quarters: int) -> InstanceMasks:
    """Rotate masks with their image counterclockwise by a number of quarter turns."""
    if quarters == 2:
        return masks.flip(0, size).flip(1, size)
    if quarters == 1:
        return masks.flip(1, size).transpose()
    return masks.flip(0, size).transpose() if quarters == 3 else masks


def _rotate_90(_: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    return _turn(masks, _get_size(params), params["factor"])


def _apply_symmetry(_: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    size = _get_size(params)
    moves: dict[str, Callable[[], InstanceMasks]] = {
        "e": lambda: masks,
        "r90": lambda: _turn(masks, size, 1),
        "r180": lambda: _turn(masks, size, 2),
        "r270": lambda: _turn(masks, size, 3),
        "v": lambda: masks.flip(0, size),
        "hvt": lambda: _turn(masks, size, 2).transpose(),
        "h": lambda: masks.flip(1, size),
        "t": masks.transpose,
    }
    return moves[params["group_element"]]()


def _to_ints(box: Any) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = map(int, box)
    return (x1, y1, x2, y2)


def _pads_with_background(border_mode: int, fill: Any) -> bool:
    return border_mode == cv2.BORDER_CONSTANT and not np.any(fill)


def _crop(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks | None:
    padding = params.get("pad_params")
    if padding is not None:
        if not _pads_with_background(transform.border_mode, transform.fill_mask):
            return None
        masks = masks.translate(padding["pad_left"], padding["pad_top"])
    return masks.crop(_to_ints(params["crop_coords"]))


def _pad(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks | None:
    if not _pads_with_background(transform.border_mode, transform.fill_mask):
        return None
    return masks.translate(params["pad_left"], params["pad_top"])


def _crop_and_pad(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks | None:
    size, (height, width) = _get_size(params), _get_size(params)
    if params["crop_params"] is not None:
        x1, y1, x2, y2 = box = _to_ints(params["crop_params"])
        masks, height, width = masks.crop(box), y2 - y1, x2 - x1
    if params["pad_params"] is not None:
        if not _pads_with_background(transform.border_mode, params["fill_mask"]):
            return None
        top, bottom, left, right = map(int, params["pad_params"])
        masks, height, width = (
            masks.translate(left, top),
            height + top + bottom,
            width + left + right,
        )
    return masks.resize((height, width), size) if transform.keep_size else masks


def _resize(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    size = _get_size(params)
    return masks.resize(size, transform.compute_mask_size(size, **params))


def _crop_and_resize(transform: Any, masks: InstanceMasks, params: Params) -> InstanceMasks:
    x1, y1, x2, y2 = box = _to_ints(params["crop_coords"])
    height, width = transform.size
    return masks.crop(box).resize((y2 - y1, x2 - x1), (height, width))


_WINDOW_MOVES: dict[type, WindowMove] = {
    albumentations.NoOp: _keep,
    albumentations.HorizontalFlip: _flip_columns,
    albumentations.VerticalFlip: _flip_rows,
    albumentations.Transpose: _transpose,
    albumentations.RandomRotate90: _rotate_90,
    albumentations.D4: _apply_symmetry,
    albumentations.SquareSymmetry: _apply_symmetry,
    albumentations.Crop: _crop,
    albumentations.CenterCrop: _crop,
    albumentations.RandomCrop: _crop,
    albumentations.RandomCropFromBorders: _crop,
    albumentations.RandomCropNearBBox: _crop,
    albumentations.BBoxSafeRandomCrop: _crop,
    albumentations.AtLeastOneBBoxRandomCrop: _crop,
    albumentations.CropNonEmptyMaskIfExists: _crop,
    albumentations.Pad: _pad,
    albumentations.PadIfNeeded: _pad,
    aligned.CropAndPad: _crop_and_pad,
    aligned.Resize: _resize,
    aligned.RandomScale: _resize,
    aligned.LongestMaxSize: _resize,
    aligned.SmallestMaxSize: _resize,
    aligned.RandomResizedCrop: _crop_and_resize,
    aligned.RandomSizedCrop: _crop_and_resize,
    aligned.RandomSizedBBoxSafeCrop: _crop_and_resize,
    aligned.CoarseDropout: _drop_nothing,
    aligned.ConstrainedCoarseDropout: _drop_nothing,
    aligned.Erasing: _drop_nothing,
    aligned.GridDropout: _drop_nothing,
    aligned.XYMasking: _drop_nothing,
}
