"""Fixtures follow the files that LabelMe 5 writes: `shapes` with label, points, group_id,
description, shape_type, flags and mask; imagePath, imageData, imageHeight, imageWidth
(wkentaro/labelme, labelme/label_file.py and examples/; the meaning of the points of each shape_type
from labelme/utils/shape.py)."""

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.converters.labelme import convert_labelme
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError

SQUARE = [[10.0, 10.0], [30.0, 10.0], [30.0, 20.0], [10.0, 20.0]]


def shape(
    label: str, points: Any, kind: str = "polygon", group: int | None = None
) -> dict[str, Any]:
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }


def labelme(file: Path, drawn: list[dict[str, Any]], **changes: Any) -> Path:
    """A JSON about an 80 x 60 (width x height) image beside it; returns their folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((60, 80, 3), dtype=np.uint8)).save(file.with_suffix(".jpg"))
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": drawn,
        "imagePath": f"{file.stem}.jpg",
        "imageData": None,
        "imageHeight": 60,
        "imageWidth": 80,
    }
    file.write_text(json.dumps(content | changes))
    return file.parent


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_shapes_by_hand(tmp_path: Path) -> None:
    shapes = [
        shape("car", SQUARE),
        shape("car", [[70, 50], [60.5, 40]], "rectangle"),
        shape("sun", [[40, 30], [43, 34]], "circle"),
        shape("tip", [[1, 1]], "point"),
        shape("road", [[0, 0], [9, 9]], "line"),
        shape("road", [[0, 0], [9, 9], [3, 4]], "linestrip"),
    ]
    source = labelme(tmp_path / "in/a.json", shapes)
    (summary,) = convert_labelme(source, tmp_path / "out")
    content = load(tmp_path / "out/train.json")
    car, box, sun = content["annotations"]
    assert [c["name"] for c in content["categories"]] == ["car", "sun"]
    assert (car["segmentation"], car["bbox"]) == (
        [[10, 10, 30, 10, 30, 20, 10, 20]],
        [10, 10, 20, 10],
    )
    assert ("segmentation" in box, box["bbox"]) == (False, [60.5, 40, 9.5, 10])
    assert sun["bbox"] == [35, 25, 10, 10]
    assert sun["area"] == pytest.approx(np.pi * 25, rel=0.05)
    assert [each.description for each in summary.skipped] == [
        "tip (shape 3)",
        "road (shape 4)",
        "road (shape 5)",
    ]
    assert read_coco(tmp_path / "out/train.json").annotated == {"boxes"}
    assert read_coco(tmp_path / "out/train.json").find_missing_files() == ()


def test_group_id_joins_parts_of_one_object(tmp_path: Path) -> None:
    part = [[50, 10], [60, 10], [60, 20], [50, 20]]
    shapes = [
        shape("car", SQUARE, group=1),
        shape("bus", SQUARE, group=1),
        shape("car", part, group=1),
        shape("car", [[50, 30], [60, 40]], "rectangle", group=1),
        shape("car", part, group=2),
    ]
    convert_labelme(labelme(tmp_path / "in/a.json", shapes), tmp_path / "out")
    first, bus, second = load(tmp_path / "out/train.json")["annotations"]
    assert len(first["segmentation"]) == 3
    assert first["bbox"] == [10, 10, 50, 30]
    assert first["area"] == 400
    assert (len(bus["segmentation"]), len(second["segmentation"])) == (1, 1)
    assert read_coco(tmp_path / "out/train.json").annotated == {"boxes", "masks"}


def test_masks_lie_where_their_points_say(tmp_path: Path) -> None:
    pixels = np.zeros((5, 4), dtype=np.uint8)
    pixels[1:, 1:] = 1
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    text = base64.b64encode(stream.getvalue()).decode()
    mask = shape("cell", [[70, 50], [73, 54]], "mask", group=3) | {"mask": text}
    other = shape("cell", SQUARE, group=3)
    convert_labelme(labelme(tmp_path / "in/a.json", [mask, other]), tmp_path / "out")
    (cell,) = load(tmp_path / "out/train.json")["annotations"]
    decoded = decode_mask(cell["segmentation"], 60, 80)
    assert decoded[51:55, 71:74].all()
    assert decoded.sum() == 12 + 200
    with pytest.raises(DataError, match=r"shape 0 of .*a\.json has a mask that is not a PNG"):
        convert_labelme(labelme(tmp_path / "b/a.json", [mask | {"mask": "x!"}]), tmp_path / "no")


def test_splits_by_folder_and_by_list(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("train/a", "train/b", "val/c"):
        labelme(source / f"{name}.json", [shape("car", SQUARE)])
    train, val = convert_labelme(source, tmp_path / "folders")
    assert (train.images, val.images) == (2, 1)
    assert load(tmp_path / "folders/val.json")["images"][0]["file_name"] == "val/c.jpg"
    labelme(source / "d.json", [])
    # Taking them all for train would teach what val is for.
    with pytest.raises(DataError, match=r"train, val and 1 JSON file outside of them, the first"):
        convert_labelme(source, tmp_path / "mixed")
    (source / "train.txt").write_text("d\ntrain/a\n")
    (source / "test.txt").write_text("val/c.json\n")
    train, test = convert_labelme(source, tmp_path / "lists")
    assert (train.images, test.split, test.images) == (2, "test", 1)
    (source / "test.txt").write_text("gone\n")
    with pytest.raises(DataError, match=r"test\.txt lists 1 name without a file"):
        convert_labelme(source, tmp_path / "no")


def test_folders_of_splits_have_other_names(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("Train/a", "valid/b"):
        labelme(source / f"{name}.json", [shape("car", SQUARE)])
    train, val = convert_labelme(source, tmp_path / "out")
    assert (train.split, train.images, val.split, val.images) == ("train", 1, "val", 1)


def test_two_files_about_one_image_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in"
    labelme(source / "a.json", [shape("car", SQUARE)])
    labelme(source / "b.json", [shape("car", SQUARE)], imagePath="a.jpg")
    with pytest.raises(DataError, match=r"train lists the image .*a\.jpg twice"):
        convert_labelme(source, tmp_path / "out")
    (source / "b.json").write_text((source / "b.json").read_text().replace('"a.jpg"', '"c.jpg"'))
    Image.new("RGB", (80, 60)).save(source / "b.png")
    with pytest.raises(
        DataError, match=r"b\.json may describe .*b\.jpg or .*b\.png; keep one of them"
    ):
        convert_labelme(source, tmp_path / "out2")


def test_images_are_found_inside_the_folder_only(tmp_path: Path) -> None:
    source = labelme(
        tmp_path / "in/json/a.json", [shape("car", SQUARE)], imagePath="..\\imgs\\x.jpg"
    )
    (source / "a.jpg").unlink()
    with pytest.raises(
        DataError,
        match=r"describes the image '\.\.\\\\imgs\\\\x\.jpg', which does not exist inside",
    ):
        convert_labelme(tmp_path / "in", tmp_path / "out")
    for folder in (tmp_path / "in/imgs", tmp_path / "imgs"):
        folder.mkdir()
        Image.new("RGB", (80, 60)).save(folder / "x.jpg")
    convert_labelme(tmp_path / "in", tmp_path / "out")
    assert load(tmp_path / "out/train.json")["images"][0]["file_name"] == "imgs/x.jpg"
    with pytest.raises(DataError, match="inside"):
        convert_labelme(tmp_path / "in/json", tmp_path / "no")


@pytest.mark.parametrize(
    ("shapes", "changes", "message"),
    [
        ([{"points": SQUARE}], {}, r"shape 0 of .*a\.json has no label"),
        ([{"points": SQUARE, "label": True}], {}, "has the label True; every shape needs the"),
        ([{"points": SQUARE, "label": math.nan}], {}, "has the label nan; every shape needs the"),
        ([{"points": SQUARE, "label": ["car"]}], {}, r"has the label \['car'\]; every shape"),
        ([shape("car", SQUARE[:2])], {}, "is a polygon of 2 points; it needs three or more"),
        ([shape("car", SQUARE[:3], "circle")], {}, "is a circle of 3 points; it needs 2"),
        ([shape("car", [[1, "x"]])], {}, "has points that are not pairs"),
        ([shape("car", [[1, float("nan")]] * 3)], {}, "has points that are not pairs"),
        ([shape("car", SQUARE, "cube")], {}, "is a 'cube'; supported shapes: polygon, rectangle"),
        ([shape("car", [[0, 0], [9e8, 0], [0, 5]])], {}, "none farther from the origin than"),
        ([], {"imageHeight": 61}, r"of size \(61, 80\)"),
        ([], {"shapes": {}}, "LabelMe did not write it"),
        ([], {}, "there are no classes"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, shapes: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    classes = ("car",) if "imageHeight" in changes else None
    source = labelme(tmp_path / "in/a.json", shapes, **changes)
    with pytest.raises(DataError, match=message):
        convert_labelme(source, tmp_path / "out", classes=classes)


def test_classes_and_files(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in/a.json", [shape("car", SQUARE)])
    with pytest.raises(
        DataError, match=r"a\.json has an object of class 'car'; .*the classes are bus"
    ):
        convert_labelme(source, tmp_path / "out", classes=("bus",))
    convert_labelme(source, tmp_path / "out", classes=("bus", "car"))
    assert load(tmp_path / "out/train.json")["annotations"][0]["category_id"] == 2
    (source / "a.json").write_text("{")
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        convert_labelme(source, tmp_path / "no")
    (source / "a.json").unlink()
    with pytest.raises(
        DataError, match=r"should contain JSON files of LabelMe, but contains a\.jpg"
    ):
        convert_labelme(source, tmp_path / "no")


def test_relative_coordinates(tmp_path: Path) -> None:
    # The image is 80 x 60 (width x height).
    shapes = [
        shape("car", [[0.125, 0.5], [0.375, 0.5], [0.375, 0.75], [0.125, 0.75]]),
        shape("car", [[0.75, 0.5], [0.5, 0.25]], "rectangle"),
    ]
    source = labelme(tmp_path / "in/a.json", shapes)
    with pytest.raises(DataError, match=r"2 of 2 boxes have no .* set the option relative=true"):
        convert_labelme(source, tmp_path / "out")
    convert_labelme(source, tmp_path / "out", relative=True)
    outline, box = load(tmp_path / "out/train.json")["annotations"]
    assert outline["segmentation"] == [[10, 30, 30, 30, 30, 45, 10, 45]]
    assert outline["bbox"] == [10, 30, 20, 15]
    assert box["bbox"] == [40, 15, 20, 15]


def test_an_invalid_shape_is_skipped(tmp_path: Path) -> None:
    box = {"label": "x", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}
    line = {"label": "x", "points": [[6, 4], [10, 7]], "shape_type": "polygon"}
    point = {"label": "x", "points": [[5, 5]], "shape_type": "rectangle"}
    source = tmp_path / "in"
    source.mkdir()
    for name, shapes in (("a", [box, line]), ("b", [box, point])):
        Image.fromarray(np.zeros((10, 20, 3), dtype=np.uint8)).save(source / f"{name}.png")
        content = {"shapes": shapes, "imagePath": f"{name}.png"}
        (source / f"{name}.json").write_text(json.dumps(content))
    (train,) = convert_labelme(source, tmp_path / "out")
    assert (train.images, train.objects) == (2, {"x": 2})
    assert [(s.file, s.description) for s in train.skipped] == [
        ("a.json", "x (shape 1)"),
        ("b.json", "x (shape 1)"),
    ]
    assert "is a polygon of 2 points; it needs three or more" in train.skipped[0].reason
    assert "is a rectangle of 1 point; it needs 2 or 4" in train.skipped[1].reason
    (warning,) = train.warnings
    assert warning.startswith("2 invalid objects are skipped: shape 1 of ")


def test_labels_that_are_numbers_are_read_as_text(tmp_path: Path) -> None:
    labels: list[Any] = [3, "3", 3.0, 0, 2.5, -1, 10**15]
    shapes = [shape(label, SQUARE) for label in labels]
    source = labelme(tmp_path / "in/a.json", [*shapes, shape(7, SQUARE[:2])])  # type: ignore[arg-type]
    labelme(tmp_path / "in/b.json", [shape("3", SQUARE)])
    (summary,) = convert_labelme(source, tmp_path / "out")
    assert summary.objects == {"-1": 1, "0": 1, "1000000000000000": 1, "2.5": 1, "3": 4}
    (skipped,) = summary.skipped
    assert skipped.description == "7 (shape 7)"
    assert summary.warnings[-1] == "labels that are numbers were read as text: 1 file (a.json)"


def test_null_shapes_are_none_and_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    source = labelme(tmp_path / "in/a.json", [shape("car", SQUARE)])
    labelme(source / "b.json", [], shapes=None)
    labelme(source / "c.json", [shape("car", SQUARE)])
    (source / "c.json").rename(source / "c.JSON")
    (train,) = convert_labelme(source, tmp_path / "out")
    assert (train.images, train.objects, train.skipped) == (3, {"car": 2}, ())
    (source / "train.txt").write_text("a\nc\n")
    (train,) = convert_labelme(source, tmp_path / "listed")
    assert (train.images, train.objects) == (2, {"car": 2})
    (source / "train.txt").unlink()
    (source / "b.json").write_text('{"imagePath": "b.jpg"}')
    with pytest.raises(DataError, match=r"b\.json has no list of shapes"):
        convert_labelme(source, tmp_path / "absent")


def test_one_shape_of_an_unknown_kind_is_skipped(tmp_path: Path) -> None:
    shapes = [shape("car", SQUARE), shape("car", SQUARE, "cube")]
    (train,) = convert_labelme(labelme(tmp_path / "in/a.json", shapes), tmp_path / "out")
    assert train.objects == {"car": 1}
    assert train.warnings[0].startswith("1 invalid object is skipped: shape 1 of ")
    assert "(car) is a 'cube'; supported shapes: polygon" in train.warnings[0]


def test_some_relative_shapes_are_reported(tmp_path: Path) -> None:
    relative = [[0.1, 0.1], [0.4, 0.1], [0.4, 0.4]]
    shapes = [shape("car", SQUARE)] * 8 + [shape("car", relative), shape("car", relative[::2])]
    shapes[-1]["shape_type"] = "rectangle"
    (train,) = convert_labelme(labelme(tmp_path / "in/a.json", shapes), tmp_path / "out")
    (warning,) = train.warnings
    assert warning.startswith("2 of 10 boxes have no coordinate outside 0..1, so in pixels each")
    assert warning.endswith("fractions of the image size, replace them by pixels in the source")
