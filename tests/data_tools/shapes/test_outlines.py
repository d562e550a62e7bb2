from pathlib import Path

import numpy as np
import pytest

from data_tools.shapes.outlines import (
    ellipse_to_polygon,
    join_rings,
    trace_outline,
    trace_rings,
)
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco


def filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return decode_mask([points.ravel().tolist()], *size)


def test_rings_by_hand() -> None:
    mask = np.zeros((9, 9), dtype=np.bool_)
    mask[1:8, 2:8] = True
    mask[3:6, 3:6] = False
    mask[4, 4] = True
    rings = trace_rings(mask)
    assert [ring.is_hole for ring in rings] == [False, True, False]
    assert [ring.points.tolist() for ring in rings] == [
        [[2, 1], [8, 1], [8, 8], [2, 8]],
        [[3, 3], [6, 3], [6, 6], [3, 6]],
        [[4, 4], [5, 4], [5, 5], [4, 5]],
    ]
    assert trace_rings(np.zeros((4, 4), dtype=np.bool_)) == []


def test_pixels_that_touch_in_a_point() -> None:
    mask = np.eye(2, dtype=np.bool_)
    (ring_a, ring_b) = trace_rings(mask)
    assert (ring_a.is_hole, ring_b.is_hole) == (False, False)
    assert ring_a.points.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]
    assert ring_b.points.tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]


def test_one_line_has_the_pixels_of_any_mask() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        size = tuple(map(int, random.integers(1, 20, 2)))
        mask = random.random(size) < random.uniform(0.05, 0.95)
        if not mask.any():
            continue
        rings = trace_rings(mask)
        assert (filled(join_rings([ring.points for ring in rings]), size) == mask).all()
        counts = {"size": list(size), "counts": run_lengths(mask)}
        found = trace_outline(counts, size)
        assert found is not None
        assert found.parts + found.holes == len(rings)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, background first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    runs = np.diff([0, *edges.tolist(), flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def test_polygons_keep_their_points_where_one_line_can_say_them() -> None:
    square = [2.0, 2, 6, 2, 6, 6, 2, 6]
    found = trace_outline([square], (10, 10))
    assert found is not None
    assert (found.points.ravel().tolist(), found.parts, found.holes) == (square, 1, 0)
    apart = trace_outline([square, [7.5, 7, 9.25, 7, 9.25, 9, 7.5, 9]], (10, 10))
    assert apart is not None
    assert apart.parts == 2
    assert 9.25 in apart.points


def test_overlapping_parts_and_points_outside_are_traced_anew() -> None:
    parts = [[1.0, 1, 6, 1, 6, 6, 1, 6], [3.0, 3, 8, 3, 8, 8, 3, 8]]
    for polygons in (parts, [[-5.0, 3, 5, -4, 12, 5, 5, 14]]):
        found = trace_outline(polygons, (10, 10))
        assert found is not None
        assert (filled(found.points, (10, 10)) == decode_mask(polygons, 10, 10)).all()
        assert found.points.min() >= 0
        assert found.points.max() <= 10
    assert trace_outline([[20.0, 20, 22, 20, 22, 22]], (10, 10)) is None


def test_real_masks_keep_every_pixel(shared_data: Path) -> None:
    coco = read_coco(shared_data / "coco_tiny/annotations/instances_val2017.json")
    seen = 0
    for record in coco.images:
        size = (record.height, record.width)
        for annotation in coco.annotations[record.id]:
            assert annotation.segmentation is not None
            found = trace_outline(annotation.segmentation, size)
            assert found is not None
            assert (filled(found.points, size) == decode_mask(annotation.segmentation, *size)).all()
            seen += 1
    assert seen > 400


def test_ellipses() -> None:
    points = np.reshape(ellipse_to_polygon(10, 20, 4, 4), (-1, 2))
    assert np.hypot(*(points - (10, 20)).T) == pytest.approx(4)
    assert filled(points, (40, 40)).sum() == pytest.approx(np.pi * 16, rel=0.1)
