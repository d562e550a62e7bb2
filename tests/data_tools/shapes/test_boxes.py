import math
from pathlib import Path

import pytest
from PIL import Image

from data_tools.shapes.boxes import SourceBox, add_clipped_box, clip_corners, sort_corners
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from resnet_tasks.files.json_files import read_json


def test_boxes_are_clipped_to_their_image() -> None:
    assert clip_corners(sort_corners((8, -2, 3, 5)), (4, 6)) == (3, 0, 3, 4)
    assert clip_corners((8, -2, 3, 5), (4, 6)) is None
    assert clip_corners((8, 0, 9, 5), (4, 6)) is None
    assert clip_corners((1, math.nan, 3, math.nan), (4, 6)) is None


@pytest.mark.parametrize(
    ("first_pixel", "box"),
    [(None, [3, 2, 5, 7]), (0, [3, 2, 6, 8]), (1, [2, 1, 6, 8])],
)
@pytest.mark.parametrize("corners", [(3, 2, 8, 9), (8, 9, 3, 2), (3, 9, 8, 2)])
def test_corners_are_ordered_before_pixels_become_edges(
    corners: tuple[int, ...], first_pixel: int | None, box: list[int], tmp_path: Path
) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    writer = CocoWriter(tmp_path, "train", [CategorySpec("cat")], annotated=("boxes",))
    image_id = writer.add_image(tmp_path / "a.png")
    source_box = SourceBox("cat", corners, "cat (object 0)")
    add_clipped_box(writer, image_id, source_box, "a.xml", first_pixel=first_pixel)
    summary = writer.write()
    assert read_json(tmp_path / "train.json")["annotations"][0]["bbox"] == box
    is_ordered = corners == (3, 2, 8, 9)
    assert summary.changed == (
        {} if is_ordered else {"corners in the wrong order were exchanged": 1}
    )


def test_a_single_pixel_is_a_box_and_a_single_point_is_not(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    writer = CocoWriter(tmp_path, "train", [CategorySpec("cat")], annotated=("boxes",))
    image_id = writer.add_image(tmp_path / "a.png")
    add_clipped_box(
        writer, image_id, SourceBox("cat", (4, 5, 4, 5), "pixel"), "a.xml", first_pixel=1
    )
    add_clipped_box(writer, image_id, SourceBox("cat", (4, 5, 4, 5), "point"), "a.xml")
    (skipped,) = writer.write().skipped
    assert (skipped.file, skipped.description) == ("a.xml", "point")
    assert read_json(tmp_path / "train.json")["annotations"][0]["bbox"] == [3, 4, 1, 1]
