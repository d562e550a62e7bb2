"""Outlines of objects: traced exactly around masks, and several joined to the one YOLO takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from resnet_tasks.data.coco.masks import decode_mask

Box = tuple[float, float, float, float]
Points = NDArray[np.float64]
"""`(N, 2)` x and y of an outline's corners in pixels; (0, 0) is the image's upper left corner."""

MAX_COORDINATE = 1e9
"""Pixels. No image is so large; JSON may hold numbers beyond all floats, and NaN."""
ELLIPSE_POINTS = 64
"""Corners of the polygon that stands for an ellipse: its area is 0.2 % smaller."""


class Ring(NamedTuple):
    """One closed line around pixels of a mask.

    Attributes:
        points: Its corners; the last is joined to the first.
        is_hole: Whether it surrounds pixels that do not belong to the mask.
    """

    points: Points
    is_hole: bool


class Outline(NamedTuple):
    """One closed line around a whole object.

    Attributes:
        points: Its corners.
        parts: Separate parts that it joins.
        holes: Holes that it joins.
    """

    points: Points
    parts: int
    holes: int


def is_number(raw: object) -> TypeGuard[float]:
    """Whether a value of a JSON file is a number that a coordinate can be."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return False
    return abs(raw) <= MAX_COORDINATE


def is_point(raw: object) -> TypeGuard[list[float]]:
    """Whether a value of a JSON file is a point [x, y]."""
    return isinstance(raw, list) and len(raw) == 2 and all(map(is_number, raw))


def clip_box(corners: Sequence[float], size: tuple[int, int]) -> Box:
    """(x1, y1, x2, y2), in any order -> (x, y, width, height) inside (height, width)."""
    x1, x2 = sorted(min(max(x, 0.0), float(size[1])) for x in (corners[0], corners[2]))
    y1, y2 = sorted(min(max(y, 0.0), float(size[0])) for y in (corners[1], corners[3]))
    return x1, y1, x2 - x1, y2 - y1


def ellipse_to_polygon(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """An ellipse around (x, y) as a flat polygon `[x0, y0, x1, y1, ...]`."""
    turns = [2 * math.pi * k / ELLIPSE_POINTS for k in range(ELLIPSE_POINTS)]
    return [v for t in turns for v in (x + radius_x * math.cos(t), y + radius_y * math.sin(t))]


def trace_rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """The closed lines along the pixel edges of a mask; filled by the even-odd rule they give it.

    Every row of pixel corners meets the outline's corners in pairs, the ends of horizontal edges;
    every column likewise. Going from pair to pair, row and column in turn, closes the rings.

    Args:
        mask: `(height, width)`.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    upper_left, upper_right = inside[:-1, :-1], inside[:-1, 1:]
    lower_left, lower_right = inside[1:, :-1], inside[1:, 1:]
    bends = upper_left ^ upper_right ^ lower_left ^ lower_right
    # Two pixels that touch in a point: the outline passes there twice.
    touches = (
        (upper_left == lower_right) & (lower_left == upper_right) & (upper_left != upper_right)
    )
    y, x = (
        np.repeat(coordinate, np.where(bends, 1, 2)[np.nonzero(bends | touches)])
        for coordinate in np.nonzero(bends | touches)
    )
    by_column = np.lexsort((y, x))
    across = np.empty_like(by_column)
    across[by_column[0::2]], across[by_column[1::2]] = by_column[1::2], by_column[0::2]
    partners = across.tolist()
    corners = np.stack((x + left, y + top), axis=1).astype(np.float64)
    visited = [False] * len(partners)
    rings = []
    for start in range(len(partners)):
        node, order = start, []
        while not visited[node]:
            visited[node] = visited[node ^ 1] = True
            order += [node, node ^ 1]
            node = partners[node ^ 1]
        if order:
            # The first corner in reading order is the ring's upper left one.
            rings.append(Ring(corners[order], not lower_right[y[start], x[start]]))
    return rings


def join_rings(rings: Sequence[Points]) -> Points:
    """One closed line through all rings, with bridges of no width at the nearest corners."""
    chain = rings[0]
    for ring in rings[1:]:
        distances, nearest = KDTree(chain).query(ring)
        ring_index = int(np.argmin(distances))
        chain_index = int(nearest[ring_index])
        loop = np.roll(ring, -ring_index, axis=0)
        chain = np.concatenate((chain[: chain_index + 1], loop, loop[:1], chain[chain_index:]))
    return chain


def trace_outline(
    segmentation: list[Any] | dict[str, Any], size: tuple[int, int]
) -> Outline | None:
    """One line around an object whose pixels are those of its segmentation.

    A single polygon inside the image stays as it is. Whatever else would change the pixels is
    traced along their edges.

    Args:
        segmentation: As `decode_mask` takes it.
        size: (height, width) of the image.

    Returns:
        None where the segmentation covers no pixel.
    """
    height, width = size
    mask = None
    if isinstance(segmentation, list):
        polygons = [
            np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation
        ]
        limits = np.array((width, height), dtype=np.float64)
        clipped = [np.clip(points, 0, limits) for points in polygons]
        is_inside = all((a == b).all() for a, b in zip(polygons, clipped, strict=True))
        if is_inside and len(clipped) == 1:
            return Outline(clipped[0], 1, 0)
        mask = decode_mask(segmentation, height, width)
        if not mask.any():
            return None
        chain = join_rings(clipped)
        if (decode_mask([chain.ravel().tolist()], height, width) == mask).all():
            return Outline(chain, len(clipped), 0)
    rings = trace_rings(decode_mask(segmentation, height, width) if mask is None else mask)
    if not rings:
        return None
    holes = sum(ring.is_hole for ring in rings)
    return Outline(join_rings([ring.points for ring in rings]), len(rings) - holes, holes)
