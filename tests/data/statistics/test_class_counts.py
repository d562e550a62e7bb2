"""Counts of classes in a line: all of a few, the extremes of many."""

from __future__ import annotations

import pytest

from resnet_tasks.data.statistics.class_counts import (
    format_counts,
    format_extremes,
    has_many_classes,
)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "none"),
        ({"cell": 5}, "cell 5"),
        ({"cell": 5, "wall": 0, "[x]": 2}, "cell 5, wall 0, [x] 2"),
        ({f"c{i}": 0 for i in range(80)}, "none of 80 classes"),
        (
            {f"c{i}": i + 1 for i in range(13)},
            "91 in 13 classes; most: c12 13, c11 12, c10 11; fewest: c2 3, c1 2, c0 1",
        ),
        (
            {f"c{i}": int(i < 2) for i in range(80)},
            "2 in 2 of 80 classes; most: c0 1, c1 1; none: c2, c3, c4, and 75 more",
        ),
    ],
)
def test_counts(counts: dict[str, int], text: str) -> None:
    assert format_counts(counts) == text


def test_large_counts_are_not_rounded() -> None:
    text = format_counts({f"c{i}": max(0, i - 70) * 1_000_001 for i in range(80)})
    assert text.startswith("45000045 in 9 of 80 classes; most: c79 9000009, c78 8000008, ")
    assert text.endswith("c71 1000001; none: c0, c1, c2, and 68 more")


def test_twelve_classes_are_all_listed() -> None:
    assert not has_many_classes(dict.fromkeys("abcdefghijkl", 1))
    assert has_many_classes(dict.fromkeys("abcdefghijklm", 1))


def test_weights_are_rounded() -> None:
    weights = {f"c{i}": 1 / (i + 3) for i in range(20)}
    expected = "highest: c0 0.3333, c1 0.25, c2 0.2; lowest: c17 0.05, c18 0.04762, c19 0.04545"
    assert format_extremes(weights, ("highest", "lowest")) == expected


def test_long_names_leave_room() -> None:
    counts = {f"{'very ' * 30}long {i}": i for i in range(1200)}
    assert len(format_counts(counts)) < 320
