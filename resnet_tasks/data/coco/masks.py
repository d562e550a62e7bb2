"""Validation and rasterization of the segmentations of COCO files: polygons and run lengths."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.field_values import format_value
from resnet_tasks.data.coco.packed.run_length_sums import sum_counts
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError
from resnet_tasks.structures.run_lengths import decode_counts, have_sum

Ints = NDArray[np.int64]

MAX_COORDINATE = 1e6
"""Largest coordinate in pixels. Rasterization walks along the outline, so a point far outside the
image would exhaust the memory."""


MAX_ENCODED_PIXELS = 2**31 - 1
"""Largest size of an image in pixels whose polygons pycocotools can encode: it counts in 32 bits.

In larger images the origin is moved to the polygons. This is not done in others, because the
rounding of shifted coordinates moves single pixels of the outline.
"""

MAX_RLE_PIXELS = 2**32 - 1
"""Largest size of an image in pixels whose run lengths pycocotools can read."""


def decode_mask(
    segmentation: list[Any] | dict[str, Any], height: int, width: int
) -> NDArray[np.bool_]:
    """Return the `(height, width)` mask of an object, rasterized exactly as by COCO.

    Args:
        segmentation: Polygons `[[x0, y0, x1, y1, ...], ...]`, or compressed or uncompressed run
            lengths `{"size": (height, width), "counts": ...}`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Raises:
        DataError: If the segmentation is neither, or the run lengths have another size.
    """
    runs = decode_counts(encode_rle(segmentation, height, width)["counts"])
    assert runs is not None
    # Runs of background and object alternate in column-major order. pycocotools' own decoder is not
    # used because it warns with NumPy 2.
    flags = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(flags, runs).reshape(width, height).T)


def decode_mask_in_tile(
    segmentation: list[Any] | dict[str, Any], height: int, width: int, tile: Tile
) -> NDArray[np.bool_]:
    """Return the mask of an object inside a tile, with the same pixels as `decode_mask`.

    The mask of the full image is never allocated.

    Args:
        segmentation: Segmentation of the object; see `decode_mask`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        tile: Tile of the image.

    Returns:
        `(tile.height, tile.width)` bool mask.

    Raises:
        DataError: If the segmentation is invalid; see `decode_mask`.
    """
    pixels, (x, y) = decode_mask_window(segmentation, height, width, tile)
    mask = np.zeros(tile.size, np.bool_)
    top, left = y - tile.top, x - tile.left
    mask[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return mask


def decode_mask_window(
    segmentation: list[Any] | dict[str, Any], height: int, width: int, tile: Tile | None = None
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return the mask of an object in its bounding box.

    The pixels are those of `decode_mask`. The mask of the full image is never allocated.

    Args:
        segmentation: Segmentation of the object; see `decode_mask`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        tile: Tile of the image that the mask is cut to; None: the full image.

    Returns:
        `(h, w)` bool mask in the bounding box of its pixels inside the tile, and the (x, y) of its
        top left pixel in the image. Without pixels inside the tile, `h` and `w` are 0.

    Raises:
        DataError: If the segmentation is invalid; see `decode_mask`.
    """
    tile = Tile.from_size((height, width)) if tile is None else tile
    frame = Tile.from_size((height, width))
    if height * width > MAX_ENCODED_PIXELS and not isinstance(segmentation, dict):
        segmentation, frame = _shift_polygons(segmentation, frame, tile)
    runs = decode_counts(encode_rle(segmentation, *frame.size)["counts"])
    assert runs is not None
    shifted_tile = replace(tile, top=tile.top - frame.top, left=tile.left - frame.left)
    columns, tops, bottoms = _split_runs(runs, frame.height, shifted_tile)
    if not len(columns):
        return np.zeros((0, 0), np.bool_), (tile.left, tile.top)
    # The columns ascend because the runs do.
    left, right = int(columns[0]), int(columns[-1]) + 1
    top, bottom = int(tops.min()), int(bottoms.max())
    rows = bottom - top
    # The running sum of +1 at the start and -1 after the end of every piece is 1 inside.
    steps = np.zeros((right - left) * rows + 1, np.int8)
    steps[(columns - left) * rows + tops - top] += 1
    steps[(columns - left) * rows + bottoms - top] -= 1
    mask = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    pixels = np.ascontiguousarray(mask.reshape(right - left, rows).T)
    return pixels, (left + frame.left, top + frame.top)


def _shift_polygons(polygons: list[Any], frame: Tile, tile: Tile) -> tuple[list[Any], Tile]:
    """Move the origin of polygons close to them.

    Args:
        polygons: Polygons in pixels of the image.
        frame: Tile of the full image.
        tile: Tile of the image in which the mask is needed.

    Returns:
        Polygons in pixels of a smaller frame, and this frame of the image, which holds all their
        pixels inside the tile.
    """
    packed = [polygon for polygon in map(pack_polygon, polygons) if polygon is not None]
    if not packed:
        return polygons, frame
    x, y = (np.concatenate([np.asarray(polygon)[axis::2] for polygon in packed]) for axis in (0, 1))
    # The frame starts at the outline, so that no coordinate that was positive becomes negative:
    # COCO rounds negative coordinates differently.
    left = min(max(0, math.floor(x.min())), tile.left + tile.width - 1)
    top = min(max(0, math.floor(y.min())), tile.top + tile.height - 1)
    right = min(max(left + 1, math.ceil(x.max()) + 1), tile.left + tile.width)
    bottom = min(max(top + 1, math.ceil(y.max()) + 1), tile.top + tile.height)
    shifted = []
    for polygon in packed:
        points = np.asarray(polygon).reshape(-1, 2) - (left, top)
        shifted.append(array("d", points.ravel().tolist()))
    return shifted, Tile(top, left, bottom - top, right - left)


def _split_runs(runs: list[int], height: int, tile: Tile) -> tuple[Ints, Ints, Ints]:
    """Split the runs of the object at the borders of columns, and cut them to a tile.

    Args:
        runs: Lengths of alternating runs of background and object in column-major order.
        height: Height of the image in pixels.
        tile: Tile of the image.

    Returns:
        `(p,)` ascending column, first row and last row + 1 of every piece, pixels of the image.
    """
    ends = np.cumsum(runs)
    first, last = tile.left * height, (tile.left + tile.width) * height
    starts, stops = np.clip(ends[:-1:2], first, last), np.clip(ends[1::2], first, last)
    starts, stops = starts[starts < stops], stops[starts < stops]
    first_columns, last_columns = starts // height, (stops - 1) // height
    counts = last_columns - first_columns + 1
    owners = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(len(owners)) - (np.cumsum(counts) - counts - first_columns)[owners]
    tops = np.where(columns == first_columns[owners], (starts % height)[owners], 0)
    ends_here = columns == last_columns[owners]
    bottoms = np.where(ends_here, ((stops - 1) % height)[owners] + 1, height)
    tops = np.maximum(tops, tile.top)
    bottoms = np.minimum(bottoms, tile.top + tile.height)
    is_inside = tops < bottoms
    return columns[is_inside], tops[is_inside], bottoms[is_inside]


def encode_rle(segmentation: Any, height: int, width: int, *, is_checked: bool = False) -> Any:
    """Return a segmentation of any form as one compressed run-length object.

    Args:
        segmentation: Polygons or run lengths.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        is_checked: Whether `is_rle` was already true for run lengths.

    Raises:
        DataError: If the segmentation is invalid.
    """
    if isinstance(segmentation, dict):
        if not is_checked and not is_rle(segmentation, height, width):
            raise DataError(
                f"RLE {format_value(segmentation)} does not fit its image of height {height} and "
                f"width {width}"
            )
        if isinstance(segmentation["counts"], list):
            return coco_mask.frPyObjects(segmentation, height, width)
        return segmentation
    polygons = [packed for polygon in segmentation if (packed := pack_polygon(polygon)) is not None]
    if not polygons:
        raise DataError(
            f"segmentation {format_value(segmentation)} contains no polygon; a polygon needs at "
            "least six numbers"
        )
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def pack_polygon(polygon: Any) -> array[float] | None:
    """Return the polygon as an array of doubles, or None if it is invalid.

    An array takes 8 bytes per number, a list 40 bytes.
    """
    if isinstance(polygon, array):
        return polygon
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return None
    try:
        packed = array("d", polygon)
    except (TypeError, OverflowError):  # JSON integers may exceed the range of floats
        return None
    # A list is faster to scan than an array. The sum detects NaN, which max and min may miss.
    is_near = max(polygon) <= MAX_COORDINATE and min(polygon) >= -MAX_COORDINATE
    return packed if is_near and math.isfinite(sum(polygon)) else None


def is_rle(raw: dict[str, Any], height: int, width: int) -> bool:
    """Return whether run lengths are well formed and cover exactly this size.

    False for an image of more pixels than `MAX_RLE_PIXELS`.
    """
    size, counts = raw.get("size"), raw.get("counts")
    is_large = height * width > MAX_RLE_PIXELS
    if is_large or not isinstance(size, list | tuple) or list(size) != [height, width]:
        return False
    if isinstance(counts, list):
        lengths = all(type(count) is int and count >= 0 for count in counts)
        return lengths and sum(counts) == height * width
    return isinstance(counts, str | bytes) and have_sum(counts, height * width)


def measure_rles(
    segmentations: Sequence[Any], sizes: Ints, images: Ints
) -> NDArray[np.float64] | None:
    """Check and measure many masks at once.

    Args:
        segmentations: Segmentations of N objects in any form.
        sizes: `(P, 2)` height and width of the images in pixels.
        images: `(N,)` position of the image of each object.

    Returns:
        `(N,)` areas in pixels if all are compressed run lengths as text for which `is_rle` is true;
        None if this is not certain.
    """
    listed_sizes: list[list[int]] = sizes.tolist()
    try:
        counts = [segmentation["counts"] for segmentation in segmentations]
        found_sizes = [segmentation["size"] for segmentation in segmentations]
    except (TypeError, KeyError):
        return None
    has_sizes = found_sizes == [listed_sizes[image] for image in images.tolist()]
    if not has_sizes or not set(map(type, counts)) <= {str}:
        return None
    sums = sum_counts(counts)
    pixels = sizes.prod(axis=1)[images]
    if sums is None or not np.array_equal(sums[0], pixels) or (pixels > MAX_RLE_PIXELS).any():
        return None
    return sums[1].astype(np.float64)


def compute_mask_area(segmentation: Any, height: int, width: int) -> float:
    """Return the area in pixels² of a segmentation of any form."""
    return float(coco_mask.area(encode_rle(segmentation, height, width)))


def compute_bounding_box(segmentation: Any, height: int, width: int) -> list[float]:
    """Return the tight xywh bounding box of polygons or run lengths."""
    if isinstance(segmentation, dict):
        lengths = encode_rle(segmentation, height, width)
        return [float(value) for value in coco_mask.toBbox(lengths)]
    points = np.concatenate([np.asarray(polygon).reshape(-1, 2) for polygon in segmentation])
    low, high = points.min(axis=0), points.max(axis=0)
    return [*map(float, low), *map(float, high - low)]
