"""Windows over images: where they lie, that they cover, and that their shares add up to one."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_tasks.data.images.windows import (
    Tile,
    WindowGrid,
    compute_window_starts,
    compute_window_weights,
)


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (100, 100, 0.5, [0]),
        (60, 100, 0.5, [0]),
        (101, 100, 0.0, [0, 1]),
        (200, 100, 0.0, [0, 100]),
        (200, 100, 0.5, [0, 50, 100]),
        (250, 100, 0.25, [0, 75, 150]),  # comes out even
        (240, 100, 0.25, [0, 70, 140]),  # does not: more overlap, evenly spread
    ],
)
def test_starts_by_hand(length: int, window: int, overlap: float, expected: list[int]) -> None:
    assert compute_window_starts(length, window, overlap) == expected


@pytest.mark.parametrize("length", [33, 64, 65, 100, 257, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_cover_every_pixel_and_overlap_enough(length: int, overlap: float) -> None:
    first = compute_window_starts(length, 64, overlap)
    size = min(64, length)
    seen = np.zeros(length, int)
    for start in first:
        assert 0 <= start <= length - size
        seen[start : start + size] += 1
    assert seen.min() >= 1
    gaps = np.diff(first)
    assert (gaps <= max(1, int(64 * (1 - overlap)))).all()
    assert np.ptp(gaps) <= 1 if len(gaps) else True  # evenly spread


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_shares_add_up_to_one_and_are_exactly_one_where_a_window_is_alone(overlap: float) -> None:
    first = compute_window_starts(300, 64, overlap)
    total, seen = np.zeros(300), np.zeros(300, int)
    for start, share in zip(first, compute_window_weights(first, 300, 64), strict=True):
        assert share.dtype == np.float32
        total[start : start + 64] += share
        seen[start : start + 64] += 1
        alone = share[seen[start : start + 64] == 1]
        assert (alone > 0).all()
    assert np.allclose(total, 1, atol=1e-6)
    for start, share in zip(first, compute_window_weights(first, 300, 64), strict=True):
        assert (share[seen[start : start + 64] == 1] == 1).all()


def test_windows_of_a_image_come_row_by_row_and_never_leave_it() -> None:
    tiles = WindowGrid(64, 128, 0.25).make_tiles((100, 200))
    places = [(0, 0), (0, 72), (36, 0), (36, 72)]
    assert tiles == [Tile(top, left, 64, 128) for top, left in places]
    assert tiles[-1].box == (72, 36, 200, 100)


def test_a_smaller_image_is_one_window_of_its_own_size() -> None:
    assert WindowGrid(64, 64).make_tiles((30, 50)) == [Tile.from_size((30, 50))]
    assert WindowGrid(64, 64, 0.0).make_tiles((30, 128)) == [
        Tile(0, 0, 30, 64),
        Tile(0, 64, 30, 64),
    ]
