"""Segmentations of COCO files: polygons and run lengths, checked and rasterized."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.problems import format_value
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError

MAX_COORDINATE = 1e6
"""Pixels. Rasterizing walks along the outline, so a stray point far away would take all memory."""


def decode_mask(
    segmentation: list[Any] | dict[str, Any], height: int, width: int
) -> NDArray[np.bool_]:
    """`(height, width)` pixels of an object, rasterized exactly as COCO does.

    Args:
        segmentation: Polygons `[[x0, y0, x1, y1, ...], ...]`, or run lengths `{"size": (height,
            width), "counts": ...}`, compressed or not.
        height: Of the image.
        width: Of the image.

    Raises:
        DataError: If it is none of these, or run lengths of another size.
    """
    runs = _decode_counts(encode_rle(segmentation, height, width)["counts"])
    assert runs is not None
    # Runs of outside and inside alternate, down the columns. (pycocotools' own decoder warns with
    # NumPy 2.)
    flags = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(flags, runs).reshape(width, height).T)


def decode_mask_in_tile(
    segmentation: list[Any] | dict[str, Any], height: int, width: int, tile: Tile
) -> NDArray[np.bool_]:
    """What a part of the image shows of an object: the same pixels as of `decode_mask`.

    The image's mask is never made as a whole.

    Args:
        segmentation: As in `decode_mask`.
        height: Of the image.
        width: Of the image.
        tile: The part.

    Returns:
        `(tile.height, tile.width)`.

    Raises:
        DataError: As `decode_mask`.
    """
    bottom, right = tile.top + tile.height, tile.left + tile.width
    if isinstance(segmentation, dict):
        encoded, top, left, rows = encode_rle(segmentation, height, width), 0, 0, height
    else:
        # Rasterized in a frame that begins where the outline does, never at negative coordinates:
        # there COCO's rounding is another one.
        packed = [polygon for polygon in map(pack_polygon, segmentation) if polygon is not None]
        least_x = min((min(polygon[0::2]) for polygon in packed), default=0.0)
        least_y = min((min(polygon[1::2]) for polygon in packed), default=0.0)
        left = min(max(0, math.floor(least_x)), tile.left)
        top = min(max(0, math.floor(least_y)), tile.top)
        shifted = [_shift_polygon(polygon, left, top) for polygon in packed] or segmentation
        rows = bottom - top
        encoded = encode_rle(shifted, rows, right - left)
    runs = _decode_counts(encoded["counts"])
    assert runs is not None
    ends = np.cumsum(runs)
    first, last = (tile.left - left) * rows, (right - left) * rows
    lengths = np.clip(ends, first, last) - np.clip(ends - runs, first, last)
    flags = np.arange(len(runs)) % 2 == 1
    columns = np.repeat(flags, lengths).reshape(tile.width, rows)
    return np.ascontiguousarray(columns[:, tile.top - top : bottom - top].T)


def _shift_polygon(polygon: array[float], left: int, top: int) -> array[float]:
    points = np.asarray(polygon).reshape(-1, 2) - (left, top)
    return array("d", points.ravel().tolist())


def encode_rle(segmentation: Any, height: int, width: int) -> Any:
    """Segmentation of any form -> one compressed run-length object."""
    if isinstance(segmentation, dict):
        if not is_rle(segmentation, height, width):
            raise DataError(
                f"run lengths {format_value(segmentation)} do not fit their image of height "
                f"{height} "
                f"and width {width}"
            )
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [packed for polygon in segmentation if (packed := pack_polygon(polygon)) is not None]
    if not polygons:
        raise DataError(
            f"segmentation {format_value(segmentation)} holds no polygon; each needs at least six "
            "numbers"
        )
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def pack_polygon(polygon: Any) -> array[float] | None:
    """The polygon as 8 bytes a number; None where it is none. A list takes 40 bytes a number."""
    if isinstance(polygon, array):
        return polygon
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return None
    try:
        packed = array("d", polygon)
    except (TypeError, OverflowError):  # whole numbers may lie beyond all floats
        return None
    # The list is faster to look through than the array; the sum finds NaN, which max may miss.
    is_near = max(polygon) <= MAX_COORDINATE and min(polygon) >= -MAX_COORDINATE
    return packed if is_near and math.isfinite(sum(polygon)) else None


def is_rle(raw: dict[str, Any], height: int, width: int) -> bool:
    """Whether run lengths are well formed and cover exactly this size."""
    size, counts = raw.get("size"), raw.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return False
    if isinstance(counts, list):
        lengths = all(type(count) is int and count >= 0 for count in counts)
        return lengths and sum(counts) == height * width
    runs = _decode_counts(counts) if isinstance(counts, str | bytes) else None
    return runs is not None and sum(runs) == height * width


def _decode_counts(counts: str | bytes) -> list[int] | None:
    """COCO's compressed run lengths as numbers; None where they are malformed.

    Each run is a little-endian sequence of 5-bit groups plus a continuation bit, offset by 48, and
    from the fourth run on the difference to the run before last (cocoapi, maskApi.c, rleToString).
    """
    encoded = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in encoded:
        group = byte - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return None
        runs.append(value)
        value = shift = 0
    return None if shift else runs


def compute_mask_area(segmentation: Any, height: int, width: int) -> float:
    """Pixels² that a segmentation of any form covers."""
    return float(coco_mask.area(encode_rle(segmentation, height, width)))


def compute_bounding_box(segmentation: Any, height: int, width: int) -> list[float]:
    """The tight xywh box around polygons or run lengths."""
    if isinstance(segmentation, dict):
        lengths = encode_rle(segmentation, height, width)
        return [float(value) for value in coco_mask.toBbox(lengths)]
    points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in segmentation])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*map(float, low), *map(float, high - low)]
