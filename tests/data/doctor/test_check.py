"""What the doctor says about one COCO file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from resnet_tasks.data.coco.json_records import open_content
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import CheckOptions, FileCheck, check_coco
from resnet_tasks.data.doctor.report import print_checks
from resnet_tasks.data.images.image_files import read_image_size
from resnet_tasks.errors import DataError
from tests.support.doctored_files import GOOD, content, noise, write

LOOK = CheckOptions(read_images=True)
BOX = [1, 1, 8, 6]


def found(check: FileCheck) -> list[tuple[str, Any, Any]]:
    return [(each.kind, each.image_id, each.annotation_id) for each in check.findings]


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    check = check_coco(write(tmp_path / "a.json", GOOD), LOOK)
    assert check.findings == ()
    assert check.is_usable
    assert check.is_clean
    assert check.objects == {3: 1, 7: 1}
    assert check.annotated == {"boxes"}


def test_every_finding_is_kept_with_its_place(tmp_path: Path) -> None:
    many = [
        {"id": 10 + i, "image_id": 1, "category_id": 3, "bbox": [i, 1, 5, 5]} for i in range(30)
    ]
    many[7]["bbox"] = [0, 0, 0, 3]
    check = check_coco(write(tmp_path / "a.json", content(annotations=many)))
    assert check.count_problems() == {"missing_area": 29, "empty_box": 1}
    (empty,) = (each for each in check.findings if each.kind == "empty_box")
    assert (empty.image_id, empty.annotation_id, empty.location) == (1, 17, ("annotations", 9))
    # One sentence for each kind, the worse first.
    assert [(each.severity, each.count) for each in check.problems] == [
        ("warning", 1),
        ("repaired", 29),
    ]
    assert check.is_usable
    assert not check.is_clean


def test_errors_do_not_hide_each_other(tmp_path: Path) -> None:
    """`read_coco` stops at broken image records; the doctor goes on, and says each thing once."""
    made = content(
        images=[
            {"id": 3, "file_name": "../c.png", "height": 4, "width": 4},
            {"id": 1, "file_name": "d.png", "height": 40, "width": 60},
            "no record",
        ],
        annotations=[
            {"id": 3, "image_id": 3, "category_id": 3, "bbox": BOX, "area": 1},
            {"id": 4, "image_id": 99, "category_id": 3, "bbox": BOX, "area": 1},
            {"id": 5, "image_id": 1, "category_id": 4, "bbox": BOX, "area": 1},
            {"id": 6, "image_id": 1, "category_id": 3, "bbox": "wide", "area": 1},
        ],
    )
    check = check_coco(write(tmp_path / "a.json", made, images=False))
    assert found(check)[:6] == [
        ("image_path", 3, None),
        ("duplicate_image", 1, None),
        ("image_record", None, None),
        ("unknown_image", None, 4),
        ("unknown_category", 1, 5),
        ("annotation_record", 1, 6),
    ]
    assert not check.is_usable


def test_paths_outside_are_refused_unless_allowed(tmp_path: Path) -> None:
    outside = tmp_path / "images" / "a.png"
    outside.parent.mkdir()
    Image.fromarray(noise("a", (40, 60))).save(outside)
    made = content()
    made["images"][0]["file_name"] = str(outside)
    made["images"][1]["file_name"] = "../images/a.png"
    path = write(tmp_path / "set" / "a.json", made, images=False)
    assert check_coco(path).count_problems()["image_path"] == 2
    allowed = check_coco(path, CheckOptions(read_images=True, allow_outside=True))
    assert allowed.is_usable
    assert allowed.findings == ()
    coco = read_coco(path, allow_outside=True)
    assert [coco.image_path(each).resolve() for each in coco.images] == [outside.resolve()] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("[1]", "COCO results file"),
        ('{"images": [], "annotations": []}', "has no `categories`"),
        ('{"images": [{"id": 1}, {"id": \\ud800}], "categories": []}', "is not JSON"),
    ],
)
def test_what_is_no_coco_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    check = check_coco(path)
    assert [each.kind for each in check.findings] == ["unreadable"]
    assert said in check.problems[0].message
    assert check.problems[0].message.count(str(path)) == 1


def test_without_categories_the_rest_is_looked_at(tmp_path: Path) -> None:
    check = check_coco(write(tmp_path / "a.json", content(categories=[]), images=False))
    assert [each.kind for each in check.problems] == ["bad_categories", "missing_file"]


def test_no_image_at_all(tmp_path: Path) -> None:
    made = {**GOOD, "images": [], "annotations": []}
    assert check_coco(write(tmp_path / "a.json", made)).problems[0].kind == "no_images"


def test_masks_apart_from_their_boxes(tmp_path: Path) -> None:
    square = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    mask = {"image_id": 1, "category_id": 3, "segmentation": square}
    outside = [[50.0, 30.0, 70.0, 30.0, 70.0, 50.0, 50.0, 50.0]]
    made = content(
        annotations=[
            {"id": 3, **mask, "bbox": [10, 10, 10, 10], "area": 100},
            {"id": 4, **mask, "bbox": [11.9, 10, 10, 10], "area": 100},  # two pixels are rounding
            {"id": 5, **mask, "bbox": [10, 10, 10, 13], "area": 100},
            # The part inside the image counts: 60 x 40.
            {**mask, "id": 6, "segmentation": outside, "bbox": [50, 30, 10, 10], "area": 100},
            {"id": 7, **mask, "bbox": [10, 10, 10, 10], "area": 130},
        ]
    )
    check = check_coco(write(tmp_path / "a.json", made))
    assert found(check) == [
        ("box_apart", 1, 5),
        ("area_beyond_box", 1, 7),
        ("repeated_object", 1, 7),
    ]
    assert (
        "bbox [10, 10, 10, 13], bounding box of the mask [10, 10, 10, 10]"
        in check.problems[0].message
    )


def test_repeated_objects_are_equal_in_everything(tmp_path: Path) -> None:
    twin = {**GOOD["annotations"][0]}
    made = content(
        annotations=[
            {**twin, "id": 3},
            {**twin, "id": 4, "image_id": 2},
            {**twin, "id": 5, "category_id": 7},
            {**twin, "id": 6, "bbox": [5, 6, 20, 11]},
        ]
    )
    assert found(check_coco(write(tmp_path / "a.json", made))) == [("repeated_object", 1, 3)]


def test_boxes_in_another_form(tmp_path: Path) -> None:
    corners = [
        {"id": 10 + i, "image_id": 1, "category_id": 3, "bbox": [i + 20, 5, 58, i + 8], "area": 4}
        for i in range(25)
    ]
    made = content(annotations=corners)
    made["annotations"] = corners
    said = check_coco(write(tmp_path / "a.json", made))
    assert "corner_boxes" in said.count_problems()
    assert "25 of 25 boxes would end outside the image" in said.problems[0].message
    for each in corners:
        each["bbox"] = [0.1, 0.2, 0.5, 0.25]
    said = check_coco(write(tmp_path / "a.json", {**made, "annotations": corners}))
    assert "relative_boxes" in said.count_problems()
    assert "corner_boxes" not in said.count_problems()


def test_images_are_read_whole(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        content(
            images=[
                {"id": 3, "file_name": "c.jpg", "height": 40, "width": 60},
                {"id": 4, "file_name": "d.jpg", "height": 40, "width": 60},
                {"id": 5, "file_name": "e.jpg", "height": 60, "width": 40},
                {"id": 6, "file_name": "f.png", "height": 41, "width": 60},
                {"id": 7, "file_name": "g.png", "height": 41, "width": 60},
            ]
        ),
    )
    Image.fromarray(noise("c", (40, 60))).save(tmp_path / "c.jpg")
    whole = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(whole[: len(whole) // 2])
    turned = Image.Exif()
    turned[274] = 6
    for name in ("d.jpg", "e.jpg"):  # stored 40 x 60, upright 60 high and 40 wide
        Image.fromarray(noise(name, (40, 60))).save(tmp_path / name, exif=turned)
    (tmp_path / "g.png").unlink()
    check = check_coco(path, LOOK)
    assert found(check) == [
        ("unreadable_file", 3, None),
        ("turned_size", 4, None),
        ("exif_turned", 5, None),
        ("wrong_size", 6, None),
        ("missing_file", 7, None),
    ]
    assert found(check_coco(path)) == [("missing_file", 7, None)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((40, 60), 9, np.uint8), "holds 1 value other than a category id"),
        (np.full((40, 61), 3, np.uint8), "is 61 x 40, but its image is 60 x 40"),
        (np.zeros((40, 60, 3), np.uint8), "one channel of whole numbers"),
        (b"text", "no known image format"),
        (None, "1 named file is missing"),
    ],
)
def test_semantic_maps(tmp_path: Path, values: Any, said: str) -> None:
    made = content()
    made["images"][0]["sem_seg_file_name"] = "maps/a.png"
    path = write(tmp_path / "a.json", made)
    (tmp_path / "maps").mkdir()
    if isinstance(values, bytes):
        (tmp_path / "maps/a.png").write_bytes(values)
    elif values is not None:
        Image.fromarray(values).save(tmp_path / "maps/a.png")
    (problem,) = check_coco(path, LOOK).problems
    assert (problem.severity, problem.image_id) == ("error", 1)
    assert said in problem.message


def test_two_runs_say_the_same_in_the_same_order(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "coco_tiny" / "annotations" / "instances_train2017.json"
    made = json.loads(path.read_text())
    for each in made["annotations"][::7]:
        del each["iscrowd"], each["area"]
    broken = write(tmp_path / "a.json", made, images=False)
    look = CheckOptions(shared_data / "coco_tiny" / "train2017", read_images=True, hash_images=True)
    first, second = check_coco(broken, look), check_coco(broken, look)
    assert first.findings == second.findings
    assert first.problems == second.problems
    assert len(first.findings) > 100


def test_unusual_json_is_read_as_the_plain_reader_does(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(GOOD).replace("200.0", "NaN")
    path.write_text(text)
    assert [each["area"] for each in open_content(path).iter_entries("annotations")][1] == 600.0
    assert check_coco(path).count_problems() == {"bad_area": 1, "missing_file": 2}
    path.write_text(json.dumps(GOOD).replace("200.0", "1e999"))
    assert check_coco(path).count_problems() == {"bad_area": 1, "missing_file": 2}
    path.write_bytes(json.dumps(GOOD).encode("utf-16"))
    assert check_coco(path).count_problems() == {"missing_file": 2}


def test_mixed_bit_depths_are_a_warning_with_a_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", content())
    assert "mixed_depths" not in check_coco(path).count_problems()
    Image.fromarray(np.full((40, 60), 3200, np.uint16)).save(tmp_path / "b.png")
    check = check_coco(path)
    (problem,) = (problem for problem in check.problems if problem.kind == "mixed_depths")
    assert problem.severity == "warning"
    assert "(1 image of 8 bits, 1 image of 16 bits)" in problem.message
    assert "data.intensity.type=percentile" in problem.message
    assert check.is_usable
    assert not check.is_clean


@pytest.mark.parametrize("reads_images", [False, True])
def test_values_of_12_bits_in_16_are_a_warning(tmp_path: Path, reads_images: bool) -> None:
    path = write(tmp_path / "a.json", content())
    for name in ("a.png", "b.png"):
        height, width = read_image_size(tmp_path / name)
        Image.fromarray(np.full((height, width), 4095, np.uint16)).save(tmp_path / name)
    check = check_coco(path, CheckOptions(read_images=reads_images))
    (problem,) = (problem for problem in check.problems if problem.kind == "unused_bits")
    assert problem.severity == "warning"
    assert "the largest value in 2 images of 16 bits is 4095, which looks like 12 bits" in (
        problem.message
    )


def test_classes_of_crowds_only(tmp_path: Path) -> None:
    made = content()
    for annotation in made["annotations"]:
        annotation["iscrowd"] = 1
    # Stuff consists of crowds.
    made["categories"] += [{"id": 9, "name": "road", "isthing": 0}]
    crowd = {"image_id": 1, "category_id": 9, "bbox": [5, 6, 7, 8], "area": 56, "iscrowd": 1}
    made["annotations"] += [{"id": 3, **crowd}, {"id": 4, **crowd, "category_id": 3}]
    check = check_coco(write(tmp_path / "a.json", made))
    (problem,) = check.problems
    assert (problem.kind, problem.severity, problem.count) == ("all_crowd", "warning", 2)
    assert "3 'cell' with 2 regions, 7 'mitosis' with 1 region" in problem.message
    made["annotations"][3]["iscrowd"] = 0
    (problem,) = check_coco(write(tmp_path / "a.json", made)).problems
    assert "7 'mitosis' with 1 region" in problem.message
    assert "cell" not in problem.message


def test_one_object_with_and_without_mask(tmp_path: Path) -> None:
    square = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
    base = {"image_id": 1, "category_id": 3, "bbox": [10, 10, 10, 10], "area": 100}
    made = content(
        annotations=[
            {**base, "id": 3, "segmentation": square},
            {**base, "id": 4, "segmentation": []},
            {**base, "id": 5, "bbox": [30, 10, 10, 10]},
            {**base, "id": 6, "bbox": [30.0001, 10, 10, 10]},
            {**base, "id": 7, "bbox": [30.1, 10, 10, 10]},
        ]
    )
    kinds = found(check_coco(write(tmp_path / "a.json", made)))
    assert [k for k in kinds if k[0] != "unused_category"] == [
        ("mask_twin", 1, 4),
        ("repeated_object", 1, 6),
    ]


def test_categories_that_differ_in_case_or_spaces(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "Car"}, {"id": 7, "name": "car "}, {"id": 8, "name": "cart"}]
    made = {**GOOD, "categories": categories}
    problems = check_coco(write(tmp_path / "a.json", made)).problems
    (problem,) = (problem for problem in problems if problem.kind == "similar_categories")
    assert "'Car' and 'car '" in problem.message
    assert problem.severity == "warning"


def test_urls_in_place_of_file_names(tmp_path: Path) -> None:
    url = "https://images.org/val2017/1.jpg"
    images = [{"id": 3, "file_name": url, "width": 20, "height": 10}]
    write(tmp_path / "a.json", GOOD)
    file = write(tmp_path / "a.json", content(images=images), images=False)
    (problem,) = (each for each in check_coco(file).problems if each.kind == "missing_file")
    assert f"image 3 ({url} is a URL, which is not downloaded)" in problem.message
    with pytest.raises(DataError, match=rf"the first is {url}; URLs are not downloaded: download"):
        read_coco(file).require_files()


def test_headline_states_that_images_were_not_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.json", GOOD)
    for options, is_stated in ((None, True), (LOOK, False)):
        print_checks([check_coco(file, options)], Console())
        output = capsys.readouterr().out
        assert "0 problems" in output
        assert ("(images not decoded; --read-images decodes them)" in output) == is_stated
