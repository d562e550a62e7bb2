"""Shapes of objects as COCO stores them, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from data_tools.writing.coco_shapes import (
    Shape,
    shape_from_box,
    shape_from_mask,
    shape_from_polygons,
)
from resnet_tasks.errors import DataError


def test_boxes_keep_their_precision() -> None:
    assert shape_from_box((1, 2.345, 3.0, 2)).to_fields() == {"bbox": [1, 2.345, 3, 2], "area": 6}
    assert shape_from_box((0.1 + 0.2, 0, 1, 1)).to_fields()["bbox"] == [0.3, 0, 1, 1]
    tiny = shape_from_box((1, 2, 0.004, 2))
    assert tiny.to_fields() == {"bbox": [1, 2, 0.004, 2], "area": 0.008}
    least = shape_from_box((0, 0, 0.001, 0.5)).to_fields()
    assert least == {"bbox": [0, 0, 0.001, 0.5], "area": 0.0005}
    smallest = shape_from_box((0, 0, 1e-12, 1)).to_fields()
    assert smallest == {"bbox": [0.0, 0.0, 1e-12, 1.0], "area": 1e-12}
    assert not tiny.is_empty
    assert shape_from_box((1, 2, 0, 2)).is_empty
    assert shape_from_box((1, 2, -3, -2)).is_empty


def test_masks_have_the_tight_box_unless_another_is_annotated() -> None:
    mask = np.zeros((6, 8), np.bool_)
    mask[1:4, 2:7] = True
    shape = shape_from_mask(mask)
    assert (shape.box, shape.area) == ([2, 1, 5, 3], 15)
    assert shape.segmentation["size"] == [6, 8]
    square = [2, 1, 7, 1, 7, 4, 2, 4]
    given = shape_from_mask(mask, polygons=[square], box=(0, 0, 8, 6))
    assert given == Shape((0, 0, 8, 6), 15, [square])
    assert shape_from_mask(np.zeros((6, 8), np.bool_)).is_empty


def test_outlines_are_boxed_by_what_the_image_shows() -> None:
    inside = shape_from_polygons([[1, 1, 5, 1, 5, 4, 1, 4]], (6, 8), "a car")
    assert inside == Shape([1, 1, 4, 3], 12, [[1, 1, 5, 1, 5, 4, 1, 4]])
    beyond = shape_from_polygons([[4, 2, 20, 2, 20, 5, 4, 5]], (6, 8), "a car")
    assert beyond is not None
    assert (beyond.box, beyond.area) == ([4, 2, 4, 3], 12)
    assert shape_from_polygons([[20, 20, 30, 20, 30, 30]], (6, 8), "a car") is None


@pytest.mark.parametrize(
    "polygon",
    [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3], [0, 0, 5, 0, 5, 801], [0, 0, 5, 0, 5, float("nan")]],
)
def test_outlines_that_are_none_are_refused(polygon: list[float]) -> None:
    with pytest.raises(DataError, match=r"a car of x\.png \(height 6, width 8\) has the polygon"):
        shape_from_polygons([polygon], (6, 8), "a car of x.png")
