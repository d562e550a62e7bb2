"""Legends: every class has a chip and its name, in rows that fit the width."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_tasks.visualization.colors import get_label_color
from resnet_tasks.visualization.legend import draw_legend, measure_text, shorten_text


@pytest.mark.parametrize("number", [1, 11, 80])
@pytest.mark.parametrize("width", [200, 1000])
def test_every_class_has_its_chip(number: int, width: int) -> None:
    entries = [(f"class number {n}", get_label_color(n)) for n in range(number)]
    legend = draw_legend(entries, width, 0.5)
    assert legend.shape[1] == width
    for _, color in entries:
        assert (legend == color).all(axis=2).sum() >= 40
    # Nothing is cut off at the right.
    assert (legend[:, -2:] == 255).all()


def test_few_classes_take_one_row() -> None:
    row = draw_legend([("a", (255, 0, 0))], 500, 0.5)
    assert len(draw_legend([("a", (255, 0, 0)), ("b", (0, 255, 0))], 500, 0.5)) == len(row)
    assert draw_legend([], 500, 0.5).shape == (0, 500, 3)


def test_long_names_are_shortened_in_the_middle() -> None:
    name = "left ventricle " * 20 + "wall"
    text = shorten_text(name, 200, 0.5)
    assert measure_text(text, 0.5) <= 200
    assert text.startswith("left ven")
    assert text.endswith("wall")
    assert "..." in text
    assert shorten_text("short", 200, 0.5) == "short"
    assert shorten_text("a\nb\x1b[31m", 200, 0.5) == "a?b?[31m"
    legend = draw_legend([(name, (255, 0, 0)), (name, (0, 255, 0))], 150, 0.5)
    assert (legend[:, -2:] == 255).all()
    assert np.ptp(np.flatnonzero((legend == (0, 255, 0)).all(axis=2).any(axis=1))) < 20
