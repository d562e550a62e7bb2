import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.converters.voc import convert_voc, read_voc_file
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>
<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
</bndbox></object>"""


def voc(root: Path, objects: list[tuple[str, tuple[Any, ...], int | str]]) -> Path:
    """A VOC folder with one 20 x 10 image in `val`."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((10, 20, 3), dtype=np.uint8)).save(root / "JPEGImages/a.png")
    parts = [OBJECT.format(name=name, box=box, difficult=hard) for name, box, hard in objects]
    size = "<size><width>20</width><height>10</height></size>"
    (root / "Annotations/a.xml").write_text(f"<annotation>{size}{''.join(parts)}</annotation>")
    (root / "ImageSets/Main/val.txt").write_text("a\n")
    return root


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bccd(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[SplitSummary, ...]]:
    out = tmp_path_factory.mktemp("bccd")
    return out, convert_voc(shared_data / "bccd", out)


def test_bccd_counts(bccd: tuple[Path, tuple[SplitSummary, ...]]) -> None:
    _, (train, val) = bccd
    assert (train.split, train.images) == ("train", 205)
    assert (val.split, val.images) == ("val", 87)
    assert train.objects == {"Platelets": 209, "RBC": 2381, "WBC": 214}
    assert val.objects == {"Platelets": 83, "RBC": 967, "WBC": 87}


def test_bccd_has_two_boxes_without_area(bccd: tuple[Path, tuple[SplitSummary, ...]]) -> None:
    _, (train, val) = bccd
    assert [s.file for s in train.skipped] == ["BloodImage_00343.xml"]
    assert [s.file for s in val.skipped] == ["BloodImage_00338.xml"]
    assert "(181.0, 329.0, 181.0, 329.0)" in train.skipped[0].description
    assert train.skipped[0].description.startswith("RBC")


def test_bccd_is_read_without_a_problem(bccd: tuple[Path, tuple[SplitSummary, ...]]) -> None:
    out, _ = bccd
    for split in ("train", "val"):
        read = read_coco(out / f"{split}.json")
        assert read.problems == ()
        assert read.find_missing_files() == ()
        assert read.annotated == frozenset(("boxes",))


def test_bccd_boxes_are_as_stored(bccd: tuple[Path, tuple[SplitSummary, ...]]) -> None:
    content = load(bccd[0] / "train.json")
    first = content["images"][0]
    assert first["file_name"] == "JPEGImages/BloodImage_00001.jpg"
    boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == first["id"]]
    assert boxes[:2] == [[68, 315, 218, 165], [346, 361, 100, 93]]


@pytest.mark.parametrize(
    ("corners", "one_based", "box"),
    [
        ((3, 2, 8, 9), False, [3, 2, 5, 7]),
        ((3, 2, 8, 9), True, [2, 1, 6, 8]),
        ((1, 1, 20, 10), True, [0, 0, 20, 10]),
        ((-4, 2, 25, 9), False, [0, 2, 20, 7]),
    ],
)
def test_coordinates_by_hand(
    corners: tuple[int, ...], one_based: bool, box: list[int], tmp_path: Path
) -> None:
    source = voc(tmp_path / "in", [("cat", corners, 0)])
    convert_voc(source, tmp_path / "out", one_based=one_based)
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert annotation["bbox"] == box


def test_difficult_objects_are_crowds_and_given_classes_keep_their_order(tmp_path: Path) -> None:
    objects = [("cat", (1, 1, 5, 5), 0), ("ant", (2, 2, 9, 9), 1)]
    source = voc(tmp_path / "in", objects)
    (summary,) = convert_voc(source, tmp_path / "out", classes=("cat", "bee", "ant"))
    content = load(tmp_path / "out/val.json")
    assert [c["name"] for c in content["categories"]] == ["cat", "bee", "ant"]
    assert [(a["category_id"], a["iscrowd"]) for a in content["annotations"]] == [(1, 0), (3, 1)]
    assert summary.objects == {"cat": 1, "bee": 0, "ant": 1}
    assert not (tmp_path / "out/train.json").exists()


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = voc(tmp_path / "in", [("cat", (1, 1, 5, 5), 0)])
    convert_voc(source, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_boxes_outside_the_image_are_left_out_and_listed(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (30, 1, 35, 5), 0), ("cat", (3, 1, 3, 5), 0)])
    (summary,) = convert_voc(source, tmp_path / "out")
    assert summary.objects == {"cat": 0}
    assert [
        "object 0" in s.description or "object 1" in s.description for s in summary.skipped
    ] == [True, True]


def test_entities_are_refused_before_they_grow(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.xml"
    lines = ['<!ENTITY a0 "ha">']
    lines += [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12)]
    text = f"<!DOCTYPE bomb [{''.join(lines)}]><annotation>&a11;</annotation>"
    for encoding in ("utf-8", "utf-16"):
        bomb.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match=r"bomb\.xml declares the document type 'bomb'"):
            read_voc_file(bomb)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xml is missing"):
        read_voc_file(tmp_path / "none.xml")
    (tmp_path / "cut.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"cut\.xml is not valid XML"):
        read_voc_file(tmp_path / "cut.xml")
    source = voc(tmp_path / "in", [("", (1, 1, 5, 5), 0)])
    with pytest.raises(DataError, match=r"object 0 .* has no name"):
        convert_voc(source, tmp_path / "out")


def test_one_invalid_box_is_skipped(tmp_path: Path) -> None:
    objects = [("cat", (1, 1, 5, 5), 0), ("cat", (1, "left", 5, 5), 0)]
    (summary,) = convert_voc(voc(tmp_path / "in", objects), tmp_path / "out")
    assert summary.objects == {"cat": 1}
    (skipped,) = summary.skipped
    assert skipped.description == "cat (object 1)"
    assert "'left'" in skipped.reason
    source = voc(tmp_path / "all", objects[1:])
    with pytest.raises(DataError, match=r"object 0 of .*a\.xml has the box .*'left'"):
        convert_voc(source, tmp_path / "none")


def test_one_object_without_class_is_skipped(tmp_path: Path) -> None:
    objects = [("cat", (1, 1, 5, 5), 0), (" ", (1, 1, 5, 5), 0)]
    (summary,) = convert_voc(voc(tmp_path / "in", objects), tmp_path / "out")
    assert summary.objects == {"cat": 1}
    (skipped,) = summary.skipped
    assert skipped.description == "(object 1)"
    assert summary.warnings[0].startswith("1 invalid object is skipped: object 1 of ")


def test_names_of_elements_may_have_a_namespace(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (1, 2, 9, 8), 0)])
    file = source / "Annotations/a.xml"
    file.write_text(file.read_text().replace("<annotation>", '<annotation xmlns="urn:voc">'))
    convert_voc(source, tmp_path / "out")
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert annotation["bbox"] == [1, 2, 8, 6]


def test_a_source_without_objects_needs_classes(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [])
    with pytest.raises(DataError, match="no object, so there are no classes; set the option cl"):
        convert_voc(source, tmp_path / "out")
    (summary,) = convert_voc(source, tmp_path / "out", classes=["cat"])
    assert summary.objects == {"cat": 0}


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a folder; it should contain JPEGImages"):
        convert_voc(tmp_path / "none", tmp_path / "out")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"JPEGImages, .* are missing; found photos"):
        convert_voc(tmp_path, tmp_path / "out")


def test_lists_classes_and_sizes_must_fit(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (1, 1, 5, 5), 0)])
    with pytest.raises(
        DataError, match=r"a\.xml has an object of class 'cat'; .*the classes are dog"
    ):
        convert_voc(source, tmp_path / "out", classes=("dog",))
    (source / "ImageSets/Main/val.txt").write_text("a\na\n")
    with pytest.raises(DataError, match=r"val\.txt lists 'a' more than once"):
        convert_voc(source, tmp_path / "out")
    (source / "ImageSets/Main/val.txt").write_text("a\n")
    Image.fromarray(np.zeros((20, 10, 3), dtype=np.uint8)).save(source / "JPEGImages/a.png")
    with pytest.raises(DataError, match=r"\(10, 20\) \(height, width\), but .* has \(20, 10\)"):
        convert_voc(source, tmp_path / "out")
    (source / "JPEGImages/a.png").unlink()
    with pytest.raises(DataError, match=r"lists 'a', but .*JPEGImages has no such image"):
        convert_voc(source, tmp_path / "out")
    assert not (tmp_path / "out/val.json").exists()


def test_relative_coordinates(tmp_path: Path) -> None:
    # The image is 20 x 10 (width x height).
    objects = [("a", (0.25, 0.5, 0.75, 1.0), 0), ("a", (0.5, 0.1, 1.05, 0.4), 0)]
    source = voc(tmp_path / "in", objects)
    with pytest.raises(DataError, match=r"1 of 2 boxes have no .* set the option relative=true"):
        convert_voc(source, tmp_path / "out")
    convert_voc(source, tmp_path / "out", relative=True)
    annotations = load(tmp_path / "out/val.json")["annotations"]
    # The second box is clipped to the image.
    assert [each["bbox"] for each in annotations] == [
        pytest.approx([5, 5, 10, 5]),
        pytest.approx([10, 1, 10, 3]),
    ]


def test_pixels_are_not_relative(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("a", (1, 2, 11, 8), 0)])
    with pytest.raises(DataError, match=r"only 0 of 1 boxes are within 0\.\.1; remove the option"):
        convert_voc(source, tmp_path / "out", relative=True)


def test_classes_of_difficult_objects_only(tmp_path: Path) -> None:
    box = (1, 2, 11, 8)
    objects = [("a", box, 1), ("a", box, 1), ("b", box, 1), ("b", box, 0)]
    (summary,) = convert_voc(voc(tmp_path / "in", objects), tmp_path / "out")
    (warning,) = summary.warnings
    assert warning.startswith("all objects of a are marked as ignored")


def test_swapped_corners_are_exchanged_and_counted(tmp_path: Path) -> None:
    objects = [("cat", (8, 9, 3, 2), 0), ("cat", (3, 9, 8, 2), 0), ("cat", (3, 2, 8, 9), 0)]
    source = voc(tmp_path / "in", objects)
    (summary,) = convert_voc(source, tmp_path / "out")
    boxes = [annotation["bbox"] for annotation in load(tmp_path / "out/val.json")["annotations"]]
    assert boxes == [[3, 2, 5, 7]] * 3
    assert summary.changed == {"corners in the wrong order were exchanged": 2}
    assert summary.skipped == ()
    convert_voc(source, tmp_path / "one", one_based=True)
    boxes = [annotation["bbox"] for annotation in load(tmp_path / "one/val.json")["annotations"]]
    assert boxes == [[2, 1, 6, 8]] * 3


@pytest.mark.parametrize(
    ("word", "iscrowd"),
    [
        *(("True", 1), ("true", 1), ("YES", 1), (" 1 ", 1), ("False", 0), ("no", 0), ("0", 0)),
        *(("Unspecified", 0), ("", 0), ("1.0", 1), ("0.0", 0)),
    ],
)
def test_difficult_in_words(word: str, iscrowd: int, tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (1, 1, 5, 5), word)])
    convert_voc(source, tmp_path / "out")
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert annotation["iscrowd"] == iscrowd


def test_an_unknown_word_of_difficult_is_named(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (1, 1, 5, 5), "maybe")])
    with pytest.raises(
        DataError, match=r"object 0 of .*a\.xml has difficult = 'maybe'; allowed: 1"
    ):
        convert_voc(source, tmp_path / "out")


def test_a_list_names_images_with_spaces(tmp_path: Path) -> None:
    source = voc(tmp_path / "in", [("cat", (1, 1, 5, 5), 0)])
    for name, box in (("a 1", (2, 2, 6, 6)), ("b", (3, 3, 7, 7))):
        (source / f"JPEGImages/{name}.png").write_bytes((source / "JPEGImages/a.png").read_bytes())
        annotation = OBJECT.format(name="cat", box=box, difficult=0)
        (source / f"Annotations/{name}.xml").write_text(f"<annotation>{annotation}</annotation>")
    (source / "ImageSets/Main/val.txt").write_text('a 1\n"b.png" -1\n')
    (summary,) = convert_voc(source, tmp_path / "out")
    content = load(tmp_path / "out/val.json")
    names = [image["file_name"] for image in content["images"]]
    assert names == ["JPEGImages/a 1.png", "JPEGImages/b.png"]
    assert [annotation["bbox"] for annotation in content["annotations"]] == [
        [2, 2, 4, 4],
        [3, 3, 4, 4],
    ]
    assert summary.skipped[0].description == "1 image"


def rotated(root: Path, *boxes: str, other: str = "") -> Path:
    """A VOC folder whose only image has rotated boxes `cx cy w h angle`, as roLabelImg writes."""
    source = voc(root, [])
    keys = ("cx", "cy", "w", "h", "angle")
    objects = [
        "".join(f"<{k}>{value}</{k}>" for k, value in zip(keys, box.split(), strict=True))
        for box in boxes
    ]
    text = "".join(
        f"<object><type>robndbox</type><name>ship</name><robndbox>{fields}</robndbox></object>"
        for fields in objects
    )
    (source / "Annotations/a.xml").write_text(f"<annotation>{text}{other}</annotation>")
    return source


@pytest.mark.parametrize(
    ("box", "options", "polygon"),
    [
        # Half a right angle clockwise: the upper left corner moves up and right.
        (f"10 5 4 4 {math.pi / 4}", {}, [10, 2.17, 12.83, 5, 10, 7.83, 7.17, 5]),
        (f"10 5 8 2 {math.pi / 2}", {}, [11, 1, 11, 9, 9, 9, 9, 1]),
        ("10 5 8 2 0.0", {}, [6, 4, 14, 4, 14, 6, 6, 6]),
        (f"0.5 0.5 0.4 0.2 {math.pi / 2}", {"relative": True}, [11, 1, 11, 9, 9, 9, 9, 1]),
    ],
)
def test_rotated_boxes_by_hand(
    box: str, options: dict[str, bool], polygon: list[float], tmp_path: Path
) -> None:
    (summary,) = convert_voc(rotated(tmp_path / "in", box), tmp_path / "out", **options)
    content = load(tmp_path / "out/val.json")
    (annotation,) = content["annotations"]
    assert annotation["segmentation"][0] == pytest.approx(polygon, abs=0.006)
    assert content["info"]["annotated"] == ["boxes", "masks"]
    assert summary.changed == {"rotated boxes became the polygons of their corners": 1}


def test_rotated_boxes_among_others(tmp_path: Path) -> None:
    source = rotated(
        tmp_path / "in",
        *("10 5 4 4 45", "90 5 4 4 0.5", "x 5 4 4 0.5", "10 5 4 4 0.5"),
        other=OBJECT.format(name="cat", box=(3, 2, 8, 9), difficult=0),
    )
    (summary,) = convert_voc(source, tmp_path / "out")
    assert summary.objects == {"cat": 1, "ship": 1}
    assert load(tmp_path / "out/val.json")["info"]["annotated"] == ["boxes"]
    reasons = {each.description: each.reason for each in summary.skipped}
    assert reasons["ship (object 1)"] == "it has no area inside the image"
    assert (
        "has a rotated box with angle = 45; allowed: radians, -6.28 to 6.28: multiply"
        in (reasons["ship (object 0)"])
    )
    assert "'cx': 'x', 'cy': '5'" in reasons["ship (object 2)"]


def test_a_difficult_rotated_box_is_a_crowd(tmp_path: Path) -> None:
    source = rotated(tmp_path / "in", "10 5 4 4 0.5")
    file = source / "Annotations/a.xml"
    file.write_text(file.read_text().replace("<name>", "<difficult>1</difficult><name>"))
    convert_voc(source, tmp_path / "out")
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert annotation["iscrowd"] == 1


def test_boxes_that_end_outside_the_image_are_clipped_and_counted(tmp_path: Path) -> None:
    # The image is 20 x 10 (width x height); 0.04 pixels are a rounding error.
    objects = [("a", (15, 2, 25, 8), 0), ("a", (1, 2, 20.04, 8), 0), ("a", (21, 2, 25, 8), 0)]
    (summary,) = convert_voc(voc(tmp_path / "in", objects), tmp_path / "out")
    assert summary.changed == {"boxes that end outside the image were clipped": 1}
    assert len(summary.skipped) == 1
    boxes = [annotation["bbox"] for annotation in load(tmp_path / "out/val.json")["annotations"]]
    assert boxes == [[15, 2, 5, 6], [1, 2, 19, 6]]
