"""Outlines of objects: exact traces of masks, joined to the single outline of a YOLO object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from resnet_tasks.data.coco.masks import decode_mask

Points = NDArray[np.float64]
"""(N, 2) x and y of the corners of an outline, in pixels; (0, 0) is the upper left corner of the
image."""

MAX_COORDINATE = 1e9
"""Largest coordinate in pixels. No image is so large, but JSON may contain NaN and numbers beyond
the range of floats."""
ELLIPSE_POINTS = 64
"""Number of corners of the polygon that replaces an ellipse; its area is 0.2 % smaller."""


class Ring(NamedTuple):
    """One closed line along the pixel edges of a mask.

    Attributes:
        points: Corners of the ring; the last is connected to the first.
        is_hole: Whether the ring surrounds pixels that do not belong to the mask.
    """

    points: Points
    is_hole: bool


class Outline(NamedTuple):
    """One closed line around a whole object.

    Attributes:
        points: Corners of the outline.
        parts: Number of separate parts that the outline joins.
        holes: Number of holes that the outline joins.
    """

    points: Points
    parts: int
    holes: int


def is_number(raw: object) -> TypeGuard[float]:
    """Return whether a value of a JSON file is a valid coordinate."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        return False
    return abs(raw) <= MAX_COORDINATE


def is_point(raw: object) -> TypeGuard[list[float]]:
    """Return whether a value of a JSON file is a point [x, y]."""
    return isinstance(raw, list) and len(raw) == 2 and all(map(is_number, raw))


def ellipse_to_polygon(x: float, y: float, radius_x: float, radius_y: float) -> list[float]:
    """Return an ellipse around (x, y) as a flat polygon `[x0, y0, x1, y1, ...]`."""
    turns = [2 * math.pi * k / ELLIPSE_POINTS for k in range(ELLIPSE_POINTS)]
    return [v for t in turns for v in (x + radius_x * math.cos(t), y + radius_y * math.sin(t))]


def rotate_points(points: Sequence[float], angle: float) -> list[float]:
    """Return flat points rotated clockwise (as displayed) around the center of their box.

    Args:
        points: Flat `[x0, y0, x1, y1, ...]` list in pixels.
        angle: Angle in radians.
    """
    xy = np.reshape(points, (-1, 2))
    center = (xy.min(axis=0) + xy.max(axis=0)) / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    rotated = (xy - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center
    flat: list[float] = rotated.ravel().tolist()
    return flat


def trace_rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """Trace the closed lines along the pixel edges of a mask.

    Filling the rings by the even-odd rule restores the mask. In every row of the grid of pixel
    corners, the corners of the outline come in pairs, which are the ends of horizontal edges. The
    same holds for columns and vertical edges. Moving from pair to pair, alternately along rows and
    columns, closes the rings.

    Args:
        mask: (height, width) bool.

    Returns:
        Rings in reading order of their first corner; empty for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    upper_left, upper_right = inside[:-1, :-1], inside[:-1, 1:]
    lower_left, lower_right = inside[1:, :-1], inside[1:, 1:]
    bends = upper_left ^ upper_right ^ lower_left ^ lower_right
    # Two pixels that touch only at this corner: the outline passes through it twice.
    touches = (
        (upper_left == lower_right) & (lower_left == upper_right) & (upper_left != upper_right)
    )
    y, x = (
        np.repeat(coordinate, np.where(bends, 1, 2)[np.nonzero(bends | touches)])
        for coordinate in np.nonzero(bends | touches)
    )
    # Corners are in reading order, so corners 2k and 2k + 1 are the ends of one horizontal edge
    # (`node ^ 1`). Sorted by column, neighbors are the ends of one vertical edge (`partners`).
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
            # The first corner in reading order is the upper left corner of its ring. The pixel
            # to the lower right of it belongs to the mask, unless the ring is a hole.
            rings.append(Ring(corners[order], not lower_right[y[start], x[start]]))
    return rings


def join_rings(rings: Sequence[Points]) -> Points:
    """Join all rings to one closed line with bridges of zero width at their nearest corners."""
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
    """Trace one closed line around an object that encloses the pixels of its segmentation.

    A single polygon inside the image is returned unchanged. Several polygons are joined if this
    does not change the pixels. Everything else is traced along the pixel edges.

    Args:
        segmentation: Polygons or run lengths that `decode_mask` accepts.
        size: (height, width) of the image.

    Returns:
        Outline of the object; None if the segmentation covers no pixel.
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
