"""Values in forms that COCO does not define but that have a single meaning, and their repair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.data.doctor.repair import RepairReport, repair
from resnet_tasks.errors import DataError
from tests.support.doctored_files import content, write

BASE = {"id": 3, "image_id": 1, "category_id": 3, "area": 100.0}
BOX = [10, 10, 10, 10]
FLAT = [10, 10, 20, 10, 20, 20, 10, 20]


def repair_content(tmp_path: Path, raw: Any, **options: Any) -> tuple[RepairReport, Any]:
    report = repair(write(tmp_path / "a.json", raw), tmp_path / "fixed.json", **options)
    return report, json.loads(report.path.read_text())


def repair_object(tmp_path: Path, **fields: Any) -> tuple[RepairReport, dict[str, Any]]:
    raw = content(annotations=[{**BASE, "bbox": BOX, **fields}])
    report, repaired = repair_content(tmp_path, raw)
    assert report.after.is_usable
    (annotation,) = repaired["annotations"][2:]
    return report, annotation


@pytest.mark.parametrize(
    "segmentation",
    [
        FLAT,
        [str(number) for number in FLAT],
        [[str(number) for number in FLAT]],
        [[10, 10], [20, 10], [20, 20], [10, 20]],
        [[[10, 10], [20, 10], [20, 20], [10, 20]]],
        [{"x": 10, "y": 10}, {"x": 20, "y": 10}, {"x": 20, "y": 20}, {"x": 10, "y": 20}],
    ],
)
def test_polygons_in_other_forms_are_kept(tmp_path: Path, segmentation: Any) -> None:
    report, annotation = repair_object(tmp_path, segmentation=segmentation)
    assert annotation["segmentation"] == [FLAT]
    assert report.counts == {"bad_segmentation": 1}
    (change,) = json.loads(report.changes.read_text())
    assert (change["place"], change["before"]) == ("annotations[2]", segmentation)


def test_a_valid_part_of_a_segmentation_is_kept(tmp_path: Path) -> None:
    points = [[10, 10], [20, 10], [20, 20], [10, 20]]
    _, annotation = repair_object(tmp_path, segmentation=[FLAT, points, [1, 2]])
    assert annotation["segmentation"] == [FLAT, FLAT]


@pytest.mark.parametrize(
    ("bbox", "corrected"),
    [
        ([40, 30, -30, -20], [10, 10, 30, 20]),
        ([40, 10, -30, 20], [10, 10, 30, 20]),
        ([10, 30, 30, -20], [10, 10, 30, 20]),
        # 5 pixels of it are left of the image.
        ([20, 30, -25, -20], [0, 10, 20, 20]),
        (["10", " 10 ", "30.5", "2e1"], [10, 10, 30.5, 20.0]),
        ({"x": 10, "y": 11, "width": "30", "height": 20}, [10, 11, 30, 20]),
        ({"h": 20, "w": 30, "y": 11, "x": 10}, [10, 11, 30, 20]),
    ],
)
def test_boxes_in_other_forms_are_kept(tmp_path: Path, bbox: Any, corrected: Any) -> None:
    _, annotation = repair_object(tmp_path, bbox=bbox)
    assert annotation["bbox"] == corrected


def test_a_box_of_negative_size_outside_the_image_is_removed(tmp_path: Path) -> None:
    raw = content(annotations=[{**BASE, "bbox": [-1, -1, -1, -1]}])
    report, repaired = repair_content(tmp_path, raw)
    assert [annotation["id"] for annotation in repaired["annotations"]] == [1, 2]
    assert json.loads(report.changes.read_text())[-1]["before"]["id"] == 3


def test_a_negative_area_follows_the_box(tmp_path: Path) -> None:
    _, annotation = repair_object(tmp_path, bbox=[40, 10, -30, 20], area=-600)
    assert (annotation["bbox"], annotation["area"]) == ([10, 10, 30, 20], 600.0)


def test_numbers_as_text_and_whole_numbers_as_floats(tmp_path: Path) -> None:
    raw = content(
        images=[{"id": 4.0, "file_name": "c.png", "height": "40", "width": "60"}],
        annotations=[
            {"id": 5.0, "image_id": 4.0, "category_id": "3", "bbox": ["1", "2", "3", "4"]}
            | {"area": "12", "iscrowd": "1"},
        ],
        categories=[{"id": "3", "name": "cell"}, {"id": 7.0, "name": "mitosis"}],
    )
    path = write(tmp_path / "a.json", raw)
    assert not check_coco(path).is_usable
    report = repair(path, tmp_path / "fixed.json")
    repaired = json.loads(report.path.read_text())
    assert report.after.findings == ()
    assert repaired["images"][2] == {"id": 4, "file_name": "c.png", "height": 40, "width": 60}
    assert repaired["annotations"][2] == {
        "iscrowd": 1,
        "id": 5,
        "image_id": 4,
        "category_id": 3,
        "bbox": [1, 2, 3, 4],
        "area": 12,
    }
    ids = [category["id"] for category in repaired["categories"]]
    assert [(type(value), value) for value in ids] == [(int, 3), (int, 7)]
    assert sum(report.counts.values()) == len(json.loads(report.changes.read_text()))


def test_category_ids_that_would_coincide_stay(tmp_path: Path) -> None:
    raw = content(categories=[{"id": 3, "name": "cell"}, {"id": "3", "name": "other"}])
    with pytest.raises(DataError, match=r"cannot be repaired: `categories\[1\]` needs a whole-n"):
        repair_content(tmp_path, raw)


@pytest.mark.parametrize("text", ["30,5", "nan", "1e999", "1_0", "", "12 px"])
def test_other_texts_are_no_numbers(tmp_path: Path, text: str) -> None:
    raw = content(annotations=[{**BASE, "bbox": [1, 2, 3, text]}])
    report, repaired = repair_content(tmp_path, raw)
    assert repaired["annotations"][2]["bbox"] == [1, 2, 3, text]
    assert report.after.count_problems() == {"annotation_record": 1}


@pytest.mark.parametrize("name", ["fish", "dataset"])
def test_placeholder_categories_of_roboflow(tmp_path: Path, name: str) -> None:
    categories = [
        {"id": 0, "name": name, "supercategory": "none"},
        {"id": 3, "name": "fish", "supercategory": name},
        {"id": 7, "name": "trap", "supercategory": name},
    ]
    report, repaired = repair_content(tmp_path, content(categories=categories))
    assert repaired["categories"] == categories[1:]
    kind = "bad_categories" if name == "fish" else "unused_category"
    assert report.counts == {kind: 1}
    assert report.after.findings == ()
    (change,) = json.loads(report.changes.read_text())
    assert (change["place"], change["before"]) == ("categories[0]", categories[0])


def test_categories_that_may_be_no_placeholders_stay(tmp_path: Path) -> None:
    used = [
        {"id": 3, "name": "fish", "supercategory": "none"},
        {"id": 7, "name": "fish", "supercategory": "none"},
    ]
    with pytest.raises(DataError, match="used more than once: 'fish'"):
        repair_content(tmp_path, content(categories=used))
    # Both are unused: one of them must stay, but which one is not known.
    more = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]
    unused = [{"id": 1, "name": "fish"}, {"id": 2, "name": "fish"}]
    with pytest.raises(DataError, match="used more than once: 'fish'"):
        repair_content(tmp_path, content(categories=[*more, *unused]))


def test_a_used_parent_category_stays(tmp_path: Path) -> None:
    categories = [
        {"id": 3, "name": "animal", "supercategory": "none"},
        {"id": 7, "name": "cat", "supercategory": "animal"},
        {"id": 9, "name": "dog", "supercategory": "animal"},
    ]
    _, repaired = repair_content(tmp_path, content(categories=categories))
    assert repaired["categories"] == categories


@pytest.mark.parametrize("size", [{"height": 0, "width": 0}, {"height": None, "width": None}])
def test_sizes_of_0_are_read_from_the_images(tmp_path: Path, size: Any) -> None:
    raw = content(images=[{"id": 4, "file_name": "c.png", **size}])
    check = check_coco(write(tmp_path / "a.json", raw))
    assert check.count_problems() == {"missing_size": 1}
    _, repaired = repair_content(tmp_path, raw)
    assert repaired["images"][2] == {"id": 4, "file_name": "c.png", "height": 40, "width": 60}


def test_backslashes_separate_folders_if_the_file_exists(tmp_path: Path) -> None:
    raw = content(images=[{"id": 4, "file_name": "images/c.png", "height": 40, "width": 60}])
    write(tmp_path / "a.json", raw)
    raw["images"][2]["file_name"] = "images\\c.png"
    raw["images"] += [{"id": 5, "file_name": "images\\absent.png", "height": 40, "width": 60}]
    path = write(tmp_path / "a.json", raw, images=False)
    report = repair(path, tmp_path / "fixed.json")
    names = [image["file_name"] for image in json.loads(report.path.read_text())["images"]]
    assert names == ["a.png", "b.png", "images/c.png", "images\\absent.png"]
    assert report.counts == {"missing_file": 1}
    assert report.after.count_problems() == {"missing_file": 1}


def test_forms_that_are_left(tmp_path: Path) -> None:
    raw = content(annotations=[{**BASE, "bbox": ["10", "10", "10", "10"]}])
    report, repaired = repair_content(tmp_path, raw, leave=["annotation_record"])
    assert repaired["annotations"][2]["bbox"] == ["10", "10", "10", "10"]
    assert report.counts == {}


def test_all_faults_of_an_object_are_reported_at_once(tmp_path: Path) -> None:
    wrong = {"id": 3, "image_id": 1, "category_id": 99, "bbox": ["1", 2, 3, 4], "iscrowd": "0"}
    wrong |= {"area": "12", "segmentation": [[1, 2]], "occluded": 9}
    lost = {**wrong, "id": 4, "image_id": 77}
    check = check_coco(write(tmp_path / "a.json", content(annotations=[wrong, lost])))
    assert check.count_problems() == {
        "annotation_record": 2,
        "unknown_category": 2,
        "unknown_image": 1,
        "bad_segmentation": 1,
        "bad_visibility": 1,
    }
    message = next(each.message for each in check.problems if each.kind == "annotation_record")
    assert (
        "annotation 3 of image 1 (iscrowd '0'; allowed: 0, 1; bbox ['1', 2, 3, 4], it must be four "
        "numbers [x, y, width, height]; area '12', it must be a number)"
    ) in message


def test_relative_boxes_are_converted_on_request(tmp_path: Path) -> None:
    # The images are 60 x 40 (width x height).
    outline = [0.25, 0.5, 0.5, 0.5, 0.5, 0.75]
    relative = {"image_id": 1, "category_id": 3, "iscrowd": 0, "bbox": [0.25, 0.5, 0.25, 0.25]}
    objects = [
        {**relative, "id": 1, "area": 0.0625, "bbox": [0.5, 0.25, 0.25, 0.25]},
        {**relative, "id": 2, "area": 0.03125, "segmentation": [outline]},
        {**relative, "id": 3, "category_id": 7, "bbox": [5, 6, 20, 10], "area": 200},
    ]
    raw = content()
    raw["annotations"] = objects
    path = write(tmp_path / "a.json", raw)
    (problem, *_) = check_coco(path).problems
    assert (problem.kind, problem.severity) == ("relative_boxes", "warning")
    assert "2 of 3 boxes have no coordinate outside 0..1" in problem.message
    report = repair(path, tmp_path / "fixed.json", convert="relative_boxes")
    first, second, third = json.loads(report.path.read_text())["annotations"]
    assert (first["bbox"], first["area"]) == ([30, 10, 15, 10], 150)
    assert (second["bbox"], second["area"]) == ([15, 20, 15, 10], 75)
    assert second["segmentation"] == [[15, 20, 30, 20, 30, 30]]
    assert third == objects[2]
    assert report.after.findings == ()


def test_corners_are_converted_on_request(tmp_path: Path) -> None:
    corners = {"image_id": 1, "category_id": 3, "iscrowd": 0, "bbox": [30, 10, 50, 35]}
    raw = content()
    raw["annotations"] = [
        {**corners, "id": 1, "area": 1750},
        {**corners, "id": 2, "bbox": [31, 10, 50, 35], "area": 400},
        {**corners, "id": 3, "bbox": [32, 10, 50, 35], "area": 1750},
        {**corners, "id": 4, "bbox": [33, 10, 50, 35], "area": 1750},
        {**corners, "id": 5, "bbox": [30, 10, 20, 25], "area": 500, "category_id": 7},
    ]
    path = write(tmp_path / "a.json", raw)
    problem = next(each for each in check_coco(path).problems if each.kind == "corner_boxes")
    assert "4 of 5 boxes would end outside the image" in problem.message
    report = repair(path, tmp_path / "fixed.json", convert="corner_boxes")
    annotations = json.loads(report.path.read_text())["annotations"]
    assert [(each["bbox"], each["area"]) for each in annotations] == [
        ([30, 10, 20, 25], 500),
        ([31, 10, 19, 25], 400),
        ([32, 10, 18, 25], 450),
        ([33, 10, 17, 25], 425),
        ([30, 10, 20, 25], 500),
    ]


def test_other_findings_cannot_be_converted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="box_apart cannot be converted; allowed: relative_boxes"):
        repair_content(tmp_path, content(), convert="box_apart")


@pytest.mark.parametrize(
    "name",
    ["..\\..\\upload\\4\\c.png", "../c.png", "/srv/media/c.png", "D:\\set\\c.png", "..\\x/c.png"],
)
def test_names_out_of_the_folder_become_the_only_file_of_that_name(
    name: str, tmp_path: Path
) -> None:
    raw = content(images=[{"id": 3, "file_name": "images/c.png", "height": 40, "width": 60}])
    path = write(tmp_path / "in/a.json", raw)
    raw["images"][2]["file_name"] = name
    path.write_text(json.dumps(raw))
    assert check_coco(path).count_problems() == {"image_path": 1}
    report = repair(path, tmp_path / "in/fixed.json")
    assert json.loads(report.path.read_text())["images"][2]["file_name"] == "images/c.png"
    assert report.after.problems == ()
    (change,) = json.loads(report.changes.read_text())
    assert (change["kind"], change["before"], change["after"]) == (
        "image_path",
        name,
        "images/c.png",
    )


def test_names_out_of_the_folder_stay_if_the_file_is_not_certain(tmp_path: Path) -> None:
    raw = content(images=[{"id": 3, "file_name": "x/c.png", "height": 40, "width": 60}])
    path = write(tmp_path / "in/a.json", raw)
    raw["images"][2]["file_name"] = "../c.png"
    path.write_text(json.dumps(raw))
    (tmp_path / "in/y").mkdir()
    shutil.copy(tmp_path / "in/x/c.png", tmp_path / "in/y/c.png")
    report = repair(path, tmp_path / "in/two.json")
    assert report.after.count_problems() == {"image_path": 1}
    # One candidate remains, but the named file exists outside of the folder.
    (tmp_path / "in/y/c.png").rename(tmp_path / "c.png")
    report = repair(path, tmp_path / "in/outside.json")
    assert report.after.count_problems() == {"image_path": 1}
    (tmp_path / "c.png").unlink()
    report = repair(path, tmp_path / "in/left.json", leave=["image_path"])
    assert report.after.count_problems() == {"image_path": 1}


def test_a_repair_does_not_clip_boxes_that_look_like_corners(tmp_path: Path) -> None:
    # In an image of 60 x 40, [30, 10, 50, 35] would be clipped to [30, 10, 30, 30].
    corners = {"image_id": 1, "category_id": 3, "iscrowd": 0, "bbox": [30, 10, 50, 35]}
    objects = [
        {**corners, "id": 1, "area": 1750},
        {**corners, "id": 2, "area": 1600, "bbox": [20, 5, 50, 32]},
    ]
    report, repaired = repair_content(tmp_path, {**content(), "annotations": objects})
    assert repaired["annotations"] == objects
    assert "corner_boxes" in {problem.kind for problem in report.after.problems}


def test_a_repair_keeps_relative_boxes_that_differ_by_less_than_a_hundredth(tmp_path: Path) -> None:
    relative = {"image_id": 1, "category_id": 3, "iscrowd": 0}
    objects = [
        {**relative, "id": 1, "area": 300, "bbox": [0.25, 0.5, 0.25, 0.25]},
        {**relative, "id": 2, "area": 300, "bbox": [0.254, 0.5, 0.25, 0.25]},
    ]
    report, repaired = repair_content(tmp_path, {**content(), "annotations": objects})
    assert repaired["annotations"] == objects
    assert "relative_boxes" in {problem.kind for problem in report.after.problems}


def test_the_reason_against_a_repair_does_not_propose_the_repair(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "cell"}, {"id": 7, "name": "cell"}]
    with pytest.raises(DataError) as error:
        repair_content(tmp_path, content(categories=categories))
    assert str(error.value) == (
        f"{tmp_path / 'a.json'} cannot be repaired: 1 category name is used more than once: "
        "'cell'; give each category its own name"
    )


def test_a_missing_file_that_exists_with_slashes_is_reported_as_repairable(tmp_path: Path) -> None:
    raw = content()
    name = raw["images"][0]["file_name"]
    raw["images"][0]["file_name"] = f"sub\\{name}"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(b"1")
    problems = check_coco(write(tmp_path / "a.json", raw, images=False)).problems
    message = next(problem.message for problem in problems if problem.kind == "missing_file")
    assert f"sub\\{name}, which exists with / in place of \\, as --fix writes it" in message
