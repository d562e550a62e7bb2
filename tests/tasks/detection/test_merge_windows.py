"""Detections of windows become those of the image: cut objects once, neighbors apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.tasks.detection.merge_windows import WindowDetections, merge_detections

Row = tuple[float, float, float, float, float, int]


def found(*rows: Row) -> Detections:
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].long())


def merge(
    size: tuple[int, int], *windows: tuple[tuple[int, int, int, int], list[Row]]
) -> list[Row]:
    made = merge_detections([WindowDetections(found(*rows), f) for f, rows in windows], size)
    table = torch.cat((made.boxes, made.scores[:, None], made.labels[:, None].float()), dim=1)
    return [tuple(round(v, 4) for v in row) for row in table.tolist()]  # type: ignore[misc]


LEFT, RIGHT = (0, 0, 100, 100), (75, 0, 175, 100)
SIZE = (100, 175)


def test_detections_of_one_window_are_as_they_were() -> None:
    alone = found((0, 0, 50, 50, 0.9, 0), (1, 0, 50, 50, 0.8, 0), (90, 90, 100, 100, 0.7, 1))
    assert merge_detections([WindowDetections(alone, LEFT)], (100, 100)) is alone


def test_an_object_that_both_windows_show_whole_comes_once() -> None:
    rows = merge(SIZE, (LEFT, [(78, 10, 96, 30, 0.8, 0)]), (RIGHT, [(78, 11, 96, 30, 0.9, 0)]))
    assert rows == [(78, 11, 96, 30, 0.9, 0)]


def test_a_cut_object_gives_way_to_the_window_that_shows_it_whole() -> None:
    rows = merge(
        SIZE,
        (LEFT, [(85, 10, 100, 60, 0.95, 0)]),  # 15 of its 40 columns
        (RIGHT, [(85, 10, 125, 60, 0.6, 0)]),
    )
    assert rows == [(85, 10, 125, 60, 0.6, 0)]


def test_a_sure_piece_outlives_a_whole_that_is_hardly_one() -> None:
    rows = merge(SIZE, (LEFT, [(85, 10, 100, 60, 0.95, 0)]), (RIGHT, [(85, 10, 125, 60, 0.06, 0)]))
    assert rows[0] == (85, 10, 100, 60, 0.95, 0)


@pytest.mark.parametrize("gap", [0, 25])
def test_an_object_larger_than_the_overlap_is_put_together(gap: int) -> None:
    right = (100 - gap, 0, 200 - gap, 100)
    rows = merge(
        (100, 200 - gap),
        (LEFT, [(20, 10, 100, 60, 0.9, 0)]),
        (right, [(100 - gap, 11, 160, 60, 0.7, 0)]),
    )
    assert rows == [(20, 10, 160, 60, 0.9, 0)]


def test_an_object_over_four_windows_is_put_together() -> None:
    frames = [(0, 0, 64, 64), (48, 0, 112, 64), (0, 48, 64, 112), (48, 48, 112, 112)]
    whole = (10, 12, 100, 105)
    windows = []
    for i, (x1, y1, x2, y2) in enumerate(frames):
        box = (max(whole[0], x1), max(whole[1], y1), min(whole[2], x2), min(whole[3], y2))
        windows.append(((x1, y1, x2, y2), [(*map(float, box), 0.5 + i / 10, 1)]))
    assert merge((112, 112), *windows) == [(10, 12, 100, 105, 0.8, 1)]  # type: ignore[arg-type]


def test_neighbors_at_a_border_stay_two() -> None:
    rows = merge(
        SIZE,
        (LEFT, [(60, 10, 100, 40, 0.9, 0)]),
        (RIGHT, [(75, 50, 120, 90, 0.8, 0)]),  # below it
    )
    assert len(rows) == 2
    # Of different classes.
    rows = merge(SIZE, (LEFT, [(60, 10, 100, 40, 0.9, 0)]), (RIGHT, [(75, 10, 120, 40, 0.8, 1)]))
    assert len(rows) == 2


def test_a_small_object_on_the_border_is_not_taken_for_a_piece_of_a_large_one() -> None:
    """The large one ends inside the left window, so it does not go on where the small one does."""
    rows = merge(
        SIZE,
        (LEFT, [(10, 10, 90, 90, 0.9, 0), (95, 20, 100, 30, 0.5, 0)]),
        (RIGHT, [(75, 10, 90, 90, 0.9, 0), (95, 20, 110, 30, 0.6, 0)]),
    )
    assert rows == [(10, 10, 90, 90, 0.9, 0), (95, 20, 110, 30, 0.6, 0)]


def test_boxes_at_the_image_s_own_border_are_no_pieces() -> None:
    rows = merge(
        SIZE,
        (LEFT, [(0, 0, 30, 30, 0.9, 0)]),
        (RIGHT, [(160, 70, 175, 100, 0.8, 0)]),
    )
    assert rows == [(0, 0, 30, 30, 0.9, 0), (160, 70, 175, 100, 0.8, 0)]


def test_boxes_of_one_window_never_drop_each_other() -> None:
    close = [(10.0, 10.0, 50.0, 50.0, 0.9, 0), (12.0, 10.0, 50.0, 50.0, 0.8, 0)]
    assert len(merge(SIZE, (LEFT, close), (RIGHT, []))) == 2


def test_nothing_found_is_nothing() -> None:
    made = merge_detections(
        [WindowDetections(found(), LEFT), WindowDetections(found(), RIGHT)], SIZE
    )
    assert made.boxes.shape == (0, 4)
    assert made.boxes.dtype == torch.float32
    assert made.labels.dtype == torch.int64


def test_perfect_detections_of_every_window_give_the_objects_back() -> None:
    """Objects of all sizes, seen by each window as far as it reaches: each comes back once."""
    rng = np.random.default_rng(0)
    size, windows = (400, 500), WindowGrid(128, 128, 0.25)
    grid = [(x, y) for y in range(0, 400, 100) for x in range(0, 500, 100)]
    sides = rng.uniform(8, 90, (len(grid), 2))
    low = np.asarray(grid) + rng.uniform(0, 1, (len(grid), 2)) * (98 - sides)
    objects = np.concatenate((low, low + sides), axis=1)
    seen = []
    for tile in windows.make_tiles(size):
        x1, y1, x2, y2 = tile.box
        cut = objects.clip([x1, y1, x1, y1], [x2, y2, x2, y2])
        shown = ((cut[:, 2:] - cut[:, :2]) > 3).all(axis=1)
        rows = [(*box, 0.9, 0) for box in cut[shown]]
        seen.append(WindowDetections(found(*rows), tile.box))
    assert sum(len(each.detections) for each in seen) > len(objects)
    made = merge_detections(seen, size).boxes.numpy()
    assert len(made) == len(objects)
    order = np.lexsort((made[:, 0].round(1), made[:, 1].round(1)))
    expected = objects[np.lexsort((objects[:, 0].round(1), objects[:, 1].round(1)))]
    assert np.allclose(made[order], expected, atol=1e-3)
