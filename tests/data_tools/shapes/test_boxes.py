import math

from data_tools.shapes.boxes import clip_corners, sort_corners


def test_boxes_are_clipped_to_their_image() -> None:
    assert clip_corners(sort_corners((8, -2, 3, 5)), (4, 6)) == (3, 0, 3, 4)
    assert clip_corners((8, -2, 3, 5), (4, 6)) is None
    assert clip_corners((8, 0, 9, 5), (4, 6)) is None
    assert clip_corners((1, math.nan, 3, math.nan), (4, 6)) is None
