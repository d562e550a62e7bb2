"""Run lengths of masks (COCO RLE), read and written without a bitmap of the full image.

A mask is a set of runs of object pixels in column-major order: pixel (row, column) has position
`column * height + row`. The compressed form equals that of pycocotools byte for byte, because
adjacent runs are always joined.

Shape glossary: `R` runs, `h, w` a window of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from hotcoco import mask as compiled_mask
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Ints = NDArray[np.int64]
Runs = tuple[Ints, Ints]
"""`(R,)` first position and `(R,)` position after the last pixel of every run, ascending."""
_MAX_SHIFT = 60
"""Position of the last group of 5 bits of a 64-bit integer, which no count exceeds. Without this
limit, the time to decode a count would grow with the square of its length."""


class Rle(TypedDict):
    """Compressed run lengths of one mask.

    Attributes:
        size: [height, width] of the image, pixels.
        counts: Compressed counts of background and object pixels in turn (pycocotools).
    """

    size: list[int]
    counts: bytes


def decode_counts(counts: str | bytes) -> list[int] | None:
    """Return COCO's compressed run lengths as numbers, or None if they are malformed.

    Each run is a little-endian sequence of 5-bit groups, each with a continuation bit and offset by
    48. From the fourth run on, the difference to the run before the previous one is stored
    (cocoapi, maskApi.c, rleToString).
    """
    encoded = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in encoded:
        group = byte - 48
        if not 0 <= group < 64 or shift > _MAX_SHIFT:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            # The highest bit of the last group is the sign.
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return None
        runs.append(value)
        value = shift = 0
    return None if shift else runs


def have_sum(counts: str | bytes, total: int) -> bool:
    """Return whether compressed run lengths are well formed and have this sum.

    The answer is that of `decode_counts`. Compiled code gives it for counts that are written as
    COCO writes them.
    """
    text = counts if isinstance(counts, str) else counts.decode("latin-1")
    try:
        is_canonical = compiled_mask.rle_from_string(text, 1, total)["counts"] == text.encode()
    except (ValueError, OverflowError):
        is_canonical = False
    if is_canonical and total > 0:
        try:
            compiled_mask.rle_from_string(text, 1, total - 1)
        except ValueError:
            return True  # The sum is larger than `total - 1`, but not than `total`.
        return False
    runs = decode_counts(counts)
    return runs is not None and sum(runs) == total


def decode_runs(rle: Mapping[str, Any]) -> Runs:
    """Return the runs of object pixels of a compressed mask whose counts are well formed."""
    decoded = decode_counts(rle["counts"])
    assert decoded is not None, "the counts were checked where they entered"
    counts = np.asarray(decoded, np.int64)
    ends = np.cumsum(counts)
    starts = ends - counts
    has_pixels = counts[1::2] > 0
    return starts[1::2][has_pixels], ends[1::2][has_pixels]


def encode_runs(runs: Runs, size: tuple[int, int]) -> Rle:
    """Compress runs of object pixels.

    Args:
        runs: Runs in ascending order, without overlap; adjacent runs are joined.
        size: (height, width) of the image, pixels.
    """
    starts, ends = runs
    if not len(starts):
        return {"size": list(size), "counts": _compress([size[0] * size[1]], size)}
    is_gap = starts[1:] > ends[:-1]
    starts, ends = starts[np.append(True, is_gap)], ends[np.append(is_gap, True)]
    bounds = np.stack((starts, ends), axis=1).ravel()
    total = size[0] * size[1]
    # pycocotools writes a leading run of zero pixels, but no trailing one.
    bounds = bounds if bounds[-1] == total else np.append(bounds, total)
    return {"size": list(size), "counts": _compress(np.diff(bounds, prepend=0), size)}


def _compress(counts: Any, size: tuple[int, int]) -> bytes:
    encoded = coco_mask.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"]
    return bytes(encoded)


def find_runs(columns: NDArray[np.bool_], left: int, top: int, height: int) -> Runs:
    """Find the runs of object pixels in columns of an image.

    Args:
        columns: `(w, h)` bool, one row per column of the window.
        left: First column of the window.
        top: First row of the window.
        height: Height of the image, pixels.
    """
    padded = np.zeros((columns.shape[0], columns.shape[1] + 2), np.int8)
    padded[:, 1:-1] = columns
    steps = np.diff(padded, axis=1)
    origin = left * height + top
    starts, ends = (
        np.asarray(column * height + row + origin, np.int64)
        for column, row in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    )
    return starts, ends


def encode_bitmap(
    bitmap: NDArray[np.bool_], size: tuple[int, int], *, left: int = 0, top: int = 0
) -> Rle:
    """Compress a `(h, w)` bool bitmap at a place of an image of (height, width) `size`."""
    return encode_runs(find_runs(bitmap.T, left, top, size[0]), size)


def decode_bitmap(rle: Mapping[str, Any]) -> tuple[NDArray[np.bool_], int, int]:
    """Return the bitmap of a mask inside its tight box.

    Returns:
        `(h, w)` bool bitmap, and its first column and row in the image; `(0, 0)` for an empty mask.
    """
    starts, ends = decode_runs(rle)
    if not len(starts):
        return np.zeros((0, 0), np.bool_), 0, 0
    left, top, width, height = map(int, coco_mask.toBbox(_as_compressed(rle)))
    # Positions in the columns of the image become positions in the columns of the tight box.
    image_height = rle["size"][0]
    first = starts - left * image_height
    last = ends - 1 - left * image_height
    if top == 0 and height == image_height:
        first_position, last_position = first, last + 1
    else:
        # No run crosses a column: every column has a free pixel above or below the tight box.
        first_position = first // image_height * height + first % image_height - top
        last_position = last // image_height * height + last % image_height - top + 1
    edges = np.zeros(width * height + 1, np.int8)
    edges[first_position] += 1
    edges[last_position] -= 1
    flags = np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)
    return np.ascontiguousarray(flags.reshape(width, height).T), left, top


def resize_mask(rle: Mapping[str, Any], size: tuple[int, int]) -> Rle:
    """Return the mask at the pixel centers of a resized image, as `resize_labels` samples them.

    Args:
        rle: Mask of the image.
        size: (height, width) of the resized image, pixels.
    """
    bitmap, left, top = decode_bitmap(rle)
    sources = [
        (2 * np.arange(new) + 1) * old // (2 * new) - start
        for new, old, start in zip(size, rle["size"], (top, left), strict=True)
    ]
    rows, columns = (
        np.flatnonzero((source >= 0) & (source < length))
        for source, length in zip(sources, bitmap.shape, strict=True)
    )
    if not len(rows) or not len(columns):
        return encode_bitmap(np.zeros((0, 0), np.bool_), size)
    sampled = bitmap[sources[0][rows]][:, sources[1][columns]]
    return encode_bitmap(sampled, size, left=int(columns[0]), top=int(rows[0]))


def encode_rectangle(box: Sequence[float], size: tuple[int, int]) -> Rle:
    """Compress the pixels whose centers lie in a box (xyxy, pixels), clipped to the image."""
    columns, rows = (compute_pixel_range(box[i], box[i + 2], size[1 - i]) for i in (0, 1))
    inside = np.ones((len(rows), len(columns)), np.bool_)
    return encode_bitmap(inside, size, left=columns.start, top=rows.start)


def compute_pixel_range(low: float, high: float, length: int) -> range:
    """Return the pixels of an axis whose centers lie in `low <= center <= high`.

    Args:
        low: First coordinate, pixels.
        high: Last coordinate, pixels.
        length: Length of the axis in pixels, to which the range is clipped.
    """
    first = int(np.clip(np.ceil(low - 0.5), 0, length))
    stop = int(np.clip(np.floor(high - 0.5) + 1, 0, length))
    return range(first, max(first, stop))


def compute_area(rle: Mapping[str, Any]) -> int:
    """Return the number of object pixels of a compressed mask."""
    return int(coco_mask.area(_as_compressed(rle)))


def compute_areas(rles: Sequence[Any]) -> NDArray[np.float64]:
    """Compute the `(N,)` numbers of object pixels of compressed masks."""
    # pycocotools fails on more than 255 masks with NumPy 2.
    if not rles:
        return np.zeros(0)
    return np.asarray(compiled_mask.area(list(map(_as_compressed, rles))), np.float64)


def unite_masks(rles: Sequence[Mapping[str, Any]]) -> Rle:
    """Return the pixels of at least one of several masks of one image."""
    return _merge(rles, is_intersection=False)


def intersect_masks(rles: Sequence[Mapping[str, Any]]) -> Rle:
    """Return the pixels that several masks of one image share."""
    return _merge(rles, is_intersection=True)


def _merge(rles: Sequence[Mapping[str, Any]], *, is_intersection: bool) -> Rle:
    merged = coco_mask.merge([_as_compressed(rle) for rle in rles], is_intersection)
    return {"size": list(merged["size"]), "counts": bytes(merged["counts"])}


def vote_pixels(rles: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> Rle:
    """Return the pixels that are covered by masks with at least half of the total weight.

    Args:
        rles: Masks of one image, at least one.
        weights: Nonnegative weight of every mask; if all are 0, every mask counts the same.
    """
    size = (int(rles[0]["size"][0]), int(rles[0]["size"][1]))
    values = np.asarray(weights, np.float64)
    values = values if values.sum() > 0 else np.ones(len(rles))
    runs = [decode_runs(rle) for rle in rles]
    numbers = [len(starts) for starts, _ in runs]
    positions = np.concatenate([*(starts for starts, _ in runs), *(ends for _, ends in runs)])
    masks = np.tile(np.repeat(np.arange(len(rles)), numbers), 2)
    signs = np.repeat([1, -1], sum(numbers))
    bounds, inverse = np.unique(positions, return_inverse=True)
    # One column per mask, so that weights are summed in the same order at every pixel.
    changes = np.zeros((len(bounds), len(rles)), np.int8)
    np.add.at(changes, (inverse, masks), signs)
    votes = np.cumsum(changes, axis=0) @ values
    is_kept = votes[:-1] >= values.sum() / 2 - 1e-9 * values.sum()
    return encode_runs((bounds[:-1][is_kept], bounds[1:][is_kept]), size)


def compute_mask_iou(rles: Sequence[Any], others: Sequence[Any]) -> NDArray[np.float64]:
    """Compute the `(N, M)` intersection over union of the masks of one image."""
    if not rles or not others:
        return np.zeros((len(rles), len(others)))
    crowd = [0] * len(others)
    compressed = [[_as_compressed(rle) for rle in masks] for masks in (rles, others)]
    return np.asarray(coco_mask.iou(*compressed, crowd)).reshape(len(rles), len(others))


def compute_covered_fractions(
    rles: Sequence[Mapping[str, Any]], other: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Compute the `(N,)` fraction of each mask's pixels that lie in another mask.

    The fraction of an empty mask is 0.
    """
    if not rles:
        return np.zeros(0)
    # For a crowd, COCO divides the intersection by the area of the first mask.
    masks = [_as_compressed(rle) for rle in rles]
    return np.asarray(coco_mask.iou(masks, [_as_compressed(other)], [1])).reshape(len(rles))


def compute_tight_boxes(rles: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Compute the `(N, 4)` xyxy boxes around the pixels of masks; zeros for an empty mask."""
    if not rles:
        return np.zeros((0, 4))
    # pycocotools fails on more than 255 masks with NumPy 2.
    boxes = np.asarray(compiled_mask.to_bbox(list(map(_as_compressed, rles))), np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _as_compressed(rle: Mapping[str, Any]) -> Any:
    return {"size": rle["size"], "counts": rle["counts"]}
