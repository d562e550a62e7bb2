"""Components are told by touch, corners included, and fit back into their image."""

from __future__ import annotations

import numpy as np

from data_tools.shapes.components import find_components


def test_components_by_hand() -> None:
    mask = np.array(
        [
            [1, 0, 0, 0, 0],
            [0, 1, 1, 0, 1],
            [0, 0, 0, 0, 1],
        ],
        dtype=np.bool_,
    )
    first, second = find_components(mask)
    assert (first.box, first.area) == ((0, 0, 3, 2), 3)  # joined at a corner
    assert first.pixels.tolist() == [[True, False, False], [False, True, True]]
    assert (second.box, second.area) == ((4, 1, 1, 2), 2)
    assert np.array_equal(first.to_mask(mask.shape) | second.to_mask(mask.shape), mask)
    assert not (first.to_mask(mask.shape) & second.to_mask(mask.shape)).any()
    assert list(find_components(np.zeros((3, 4), dtype=np.bool_))) == []


def test_a_component_inside_the_box_of_another_is_its_own() -> None:
    ring = np.ones((7, 7), dtype=np.bool_)
    ring[1:6, 1:6] = False
    ring[3, 3] = True
    outer, inner = find_components(ring)
    assert (outer.area, inner.area) == (24, 1)
    assert inner.to_mask(ring.shape).sum() == 1
    assert not outer.to_mask(ring.shape)[3, 3]
