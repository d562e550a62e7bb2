"""Boxes, polygons and Bezier curves of Scalabel labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from data_tools.shapes.boxes import Box
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.shapes.outlines import is_number, is_point

Point = tuple[float, float]

STEP = 4.0
"""Approximate length, in pixels, of the line segments that replace a curve."""
MAX_STEPS = 32


@dataclass(frozen=True)
class Poly2dPath:
    """One path of a `poly2d`.

    Attributes:
        points: Vertices and control points in pixels.
        types: One letter per point: `L` for a vertex, `C` for a control point of a cubic curve.
        is_closed: Whether the last point is connected to the first.
    """

    points: tuple[Point, ...]
    types: str
    is_closed: bool


def read_paths(raw: Any, location: str) -> list[Poly2dPath]:
    """Return the paths of a label; empty if it has none.

    Raises:
        InvalidShapeError: If a field is missing, has the wrong type or is not finite, or a curve
            lacks a point.
    """
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise InvalidShapeError(f"{location}: poly2d is {raw!r:.60}; it must be a list of paths")
    return [
        _parse_path(raw_path, f"{location}, poly2d {index}") for index, raw_path in enumerate(raw)
    ]


def _parse_path(raw: Any, location: str) -> Poly2dPath:
    vertices = raw.get("vertices") if isinstance(raw, dict) else None
    if not isinstance(vertices, list) or not all(map(is_point, vertices)):
        raise InvalidShapeError(
            f"{location} has no list of vertices [x, y] that are finite numbers"
        )
    points = tuple((float(x), float(y)) for x, y in vertices)
    types = raw.get("types") or "L" * len(points)
    if not isinstance(types, str) or len(types) != len(points) or set(types) - set("LC"):
        raise InvalidShapeError(
            f"{location} has the types {types!r:.60}; it needs one letter, L or C, for each of "
            f"its {len(points)} vertices"
        )
    is_closed = bool(raw.get("closed"))
    if len(points) < (3 if is_closed else 2):
        raise InvalidShapeError(
            f"{location} has {len(points)} vertices; a path needs 2, a closed path 3"
        )
    path = Poly2dPath(points, types, is_closed)
    if types[0] != "L" or any(_is_missing_end(path, index) for index in _find_curves(types)):
        raise InvalidShapeError(
            f"{location} has the types {types!r:.60}; a curve is a vertex L, two control "
            "points C, and the vertex where it ends"
        )
    return path


def _find_curves(types: str) -> list[int]:
    """Return the index of the first control point of every curve."""
    starts, index = [], 0
    while index < len(types):
        if types[index] == "C":
            starts.append(index)
            index += 3
        else:
            index += 1
    return starts


def _is_missing_end(path: Poly2dPath, first: int) -> bool:
    count = len(path.points)
    if first + 1 >= count or path.types[first + 1] != "C":
        return True
    # The last curve of a closed path ends at the first point of the path.
    return first + 2 >= count and not path.is_closed


def flatten_path(path: Poly2dPath) -> list[float]:
    """Return a path as flat `[x0, y0, x1, y1, ...]`, with curves as short line segments."""
    points = path.points
    outline_points: list[Point] = []
    index = 0
    while index < len(points):
        if path.types[index] == "L":
            outline_points.append(points[index])
            index += 1
            continue
        end = points[(index + 2) % len(points)]
        outline_points += _sample_curve((outline_points[-1], points[index], points[index + 1], end))
        index += 3
    return [value for point in outline_points for value in point]


def _sample_curve(control: Sequence[Point]) -> list[Point]:
    """Return points on a cubic Bezier curve, without its start and with its end."""
    length = sum(math.dist(a, b) for a, b in pairwise(control))
    steps = min(max(math.ceil(length / STEP), 2), MAX_STEPS)
    points = []
    for step in range(1, steps + 1):
        t = step / steps
        weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        x, y = (sum(w * p[axis] for w, p in zip(weights, control, strict=True)) for axis in (0, 1))
        points.append((x, y))
    return points


def parse_corners(raw: Any, location: str) -> Box:
    """Return the x1, y1, x2, y2 of a `box2d` in pixels, both ends included.

    Args:
        raw: Value of `box2d`.
        location: Prefix of the error message.

    Raises:
        InvalidShapeError: If an edge is missing or is not a finite number.
    """
    fields = raw if isinstance(raw, dict) else {}
    edges = [fields.get(key) for key in ("x1", "y1", "x2", "y2")]
    coordinates = [float(edge) for edge in edges if is_number(edge)]
    if len(coordinates) < 4:
        raise InvalidShapeError(
            f"{location} has the box {raw!r:.90}; x1, y1, x2 and y2 must be numbers"
        )
    x1, y1, x2, y2 = coordinates
    return x1, y1, x2, y2
