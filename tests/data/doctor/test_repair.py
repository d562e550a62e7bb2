"""Repaired copies: what is changed, what is left, what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import CheckOptions, FileCheck, check_coco
from resnet_tasks.data.doctor.repair import RepairReport, repair
from resnet_tasks.errors import DataError
from tests.support.doctored_files import content, noise, write

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]
LOOK = CheckOptions(read_images=True)


def changes(made: RepairReport) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(made.changes.read_text())
    return found


def brief(made: RepairReport) -> list[tuple[Any, ...]]:
    return [
        (each["kind"], each.get("annotation_id"), each.get("key"), each.get("after", "removed"))
        for each in changes(made)
    ]


def by_id(made: RepairReport, key: str = "annotations") -> dict[Any, dict[str, Any]]:
    return {each["id"]: each for each in json.loads(made.path.read_text())[key]}


def repaired(tmp_path: Path, given: Any, **options: Any) -> RepairReport:
    return repair(write(tmp_path / "a.json", given), tmp_path / "fixed.json", **options)


def test_everything_that_has_one_right_answer(tmp_path: Path) -> None:
    base = {"image_id": 1, "category_id": 3}
    made = repaired(
        tmp_path,
        content(
            info=...,
            licenses=[{"id": 1, "name": "CC0"}],
            extra={"kept": [1.50, None]},
            annotations=[
                {**base, "id": 3, "bbox": [1, 2, 5, 4], "track": 7},
                {**base, "bbox": [1, 2, 6, 4], "area": 24},
                {**base, "id": 1, "bbox": [1, 2, 7, 4], "area": 28},
                {**base, "id": 5, "bbox": [1, 2, 8, 4], "area": 32, "iscrowd": None},
                {**base, "id": 6, "segmentation": SQUARE, "area": -3},
                {**base, "id": 7, "bbox": [50, 30, 20, 20], "area": 400},
                {**base, "id": 8, "bbox": [50, 30, 20, 20], "area": 7, "segmentation": SQUARE},
                {**base, "id": 9, "bbox": [3, 4, 0, 5], "area": 0, "segmentation": SQUARE},
                {**base, "id": 10, "bbox": [3, 4, 0, 6], "area": 0, "note": "gone"},
                {**base, "id": 11, "bbox": [90, 4, 5, 6], "area": 30},
                {**base, "id": 12, "bbox": [5, 5, 5, 6], "area": 30, "segmentation": [[1, 2]]},
                {**base, "id": 13, "bbox": [10, 10, 10, 10], "area": 500, "occluded": 9},
                {**base, "id": "14", "image_id": "2", "category_id": "3", "bbox": [1, 1, 2, 2]},
            ],
        ),
    )
    assert brief(made) == [
        ("missing_info", None, None, {}),
        ("missing_area", 3, "area", 20.0),
        ("missing_id", None, "id", 14),
        ("duplicate_annotation", 1, "id", 15),
        ("missing_iscrowd", 5, "iscrowd", 0),
        ("missing_bbox", 6, "bbox", [10.0, 10.0, 10.0, 10.0]),
        ("bad_area", 6, "area", 100.0),
        ("box_beyond_frame", 7, "bbox", [50, 30, 10, 10]),
        ("box_beyond_frame", 7, "area", 100.0),
        # The area is that of the mask; which of box and mask is right is not known.
        ("box_beyond_frame", 8, "bbox", [50, 30, 10, 10]),
        ("empty_box", 9, "bbox", [10.0, 10.0, 10.0, 10.0]),
        ("empty_box", 10, None, "removed"),
        ("box_outside", 11, None, "removed"),
        ("bad_segmentation", 12, "segmentation", "removed"),
        ("bad_visibility", 13, "occluded", "removed"),
        ("area_beyond_box", 13, "area", 100.0),
        ("unknown_image", "14", "image_id", 2),
        ("unknown_category", "14", "category_id", 3),
        ("missing_area", "14", "area", 4.0),
    ]
    removed = next(each for each in changes(made) if each.get("annotation_id") == 10)
    assert removed["before"]["note"] == "gone"
    assert (removed["place"], removed["image_id"]) == ("annotations[10]", 1)
    after = json.loads(made.path.read_text())
    assert list(after) == ["info", "images", "annotations", "categories", "licenses", "extra"]
    assert after["extra"] == {"kept": [1.5, None]}
    assert by_id(made)[3]["track"] == 7
    assert len(after["annotations"]) == 13
    assert made.after.is_usable
    # With its box, annotation 9 turns out to be annotation 6 once more.
    assert made.after.count_problems() == {
        "box_apart": 1,
        "repeated_object": 1,
        "mask_twin": 2,
    }
    assert "annotation 8 of image 1" in made.after.problems[0].message
    assert sum(made.counts.values()) == len(changes(made))
    assert check_coco(made.path).problems == made.after.problems


def test_a_second_repair_changes_nothing(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "coco_tiny"
    given = json.loads((folder / "annotations/instances_train2017.json").read_text())
    for i, each in enumerate(given["annotations"]):
        if i % 5 == 0:
            del each["area"]
        if i % 7 == 0:
            each["bbox"] = []
        if i % 11 == 0:
            each["iscrowd"] = None
    path = write(tmp_path / "a.json", given, images=False)
    look = CheckOptions(folder / "train2017", read_images=True)
    first = repair(path, tmp_path / "b.json", options=look)
    # The copy knows where its images are, whoever asks.
    assert first.after.images_root.resolve() == (folder / "train2017").resolve()
    assert first.after.findings == ()
    second = repair(tmp_path / "b.json", tmp_path / "c.json", options=LOOK)
    assert changes(second) == []
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    ours, theirs = read_coco(tmp_path / "b.json"), read_coco(path, images_root=folder / "train2017")
    assert ours.annotated == theirs.annotated
    for record in theirs.images:
        for a, b in zip(ours.annotations[record.id], theirs.annotations[record.id], strict=True):
            assert (a.id, a.bbox, a.is_crowd) == (b.id, b.bbox, b.is_crowd)
            assert a.area == pytest.approx(b.area)


def test_untouched_records_stay_byte_for_byte(tmp_path: Path) -> None:
    text = """{"info": {}, "categories": [{"id": 1, "name": "a"}],
    "images": [{"id": 1,  "file_name":"a.png", "height":40, "width":60, "x": 1.10}],
    "annotations": [{"id":1, "image_id":1, "category_id":1, "bbox":[1.0, 2, 3.00, 4],
       "area":12, "iscrowd":0, "odd": "\\u00e9"},
      {"id":2, "image_id":1, "category_id":1, "bbox":[1,2,3,5], "iscrowd":0}]}"""
    Image.fromarray(noise("a", (40, 60))).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(text)
    made = repair(tmp_path / "a.json", tmp_path / "b.json")
    after = made.path.read_text()
    assert '{"id": 1,  "file_name":"a.png", "height":40, "width":60, "x": 1.10}' in after
    assert '"bbox":[1.0, 2, 3.00, 4],\n       "area":12, "iscrowd":0, "odd": "\\u00e9"}' in after
    assert [each["key"] for each in changes(made)] == ["area"]


@pytest.mark.parametrize("image_id", ["--2", "-", "2-", "2" * 5000, "²"])
def test_ids_that_only_look_like_numbers_are_left(tmp_path: Path, image_id: str) -> None:
    base = {"category_id": 3, "bbox": [1, 2, 5, 4], "area": 20}
    annotations = [{**base, "id": 3, "image_id": image_id}]
    repair_report = repaired(tmp_path, content(annotations=annotations))
    assert changes(repair_report) == []
    assert repair_report.after.count_problems() == {"unknown_image": 1}


def test_what_is_not_safe_is_left_and_said(tmp_path: Path) -> None:
    base = {"image_id": 1, "bbox": [1, 2, 5, 4], "area": 20}
    given = content(
        annotations=[
            {**base, "id": 3, "category_id": 99},
            {**base, "id": 4, "category_id": 3, "image_id": 99},
            {**base, "id": 5, "category_id": 3, "segmentation": SQUARE},
        ]
    )
    made = repaired(tmp_path, given)
    assert changes(made) == []
    assert made.after.count_problems() == {
        "unknown_image": 1,
        "unknown_category": 1,
        "box_apart": 1,
    }
    assert not made.after.is_usable
    dropped = repair(
        tmp_path / "a.json",
        tmp_path / "b.json",
        drop=["unknown_image", "unknown_category", "box_apart"],
    )
    assert [each["before"]["id"] for each in changes(dropped)] == [3, 4, 5]
    assert dropped.after.findings == ()


def test_kinds_can_be_left(tmp_path: Path) -> None:
    given = content(
        annotations=[{"id": 3, "image_id": 1, "category_id": 3, "bbox": [50, 1, 30, 5], "area": -1}]
    )
    made = repaired(tmp_path, given, leave=["box_beyond_frame"])
    assert brief(made) == [("bad_area", 3, "area", 150.0)]
    assert made.after.count_problems() == {"box_beyond_frame": 1}


def test_sizes_are_taken_from_images_where_that_is_beyond_doubt(tmp_path: Path) -> None:
    swapped = {"height": 60, "width": 40}
    records = [
        {"id": 3, "file_name": "empty.png", "height": 10, "width": 10},
        {"id": 4, "file_name": "swapped.png", **swapped},
        {"id": 5, "file_name": "perhaps.png", **swapped},
        {"id": 6, "file_name": "scaled.png", "height": 80, "width": 120},
        {"id": 7, "file_name": "none.png", "height": None, "width": None},
    ]
    boxes = {4: [45, 5, 10, 10], 5: [1, 1, 10, 10], 6: [1, 1, 10, 10]}
    given = content(
        images=records,
        annotations=[
            {"id": 10 + i, "image_id": i, "category_id": 3, "bbox": box, "area": 100}
            for i, box in boxes.items()
        ],
    )
    made = repaired(tmp_path, given, options=LOOK)
    after = by_id(made, "images")
    sizes = {key: (each["height"], each["width"]) for key, each in after.items() if key > 2}
    assert sizes == {3: (40, 60), 4: (40, 60), 5: (60, 40), 6: (80, 120), 7: (40, 60)}
    assert by_id(made)[14]["bbox"] == [45, 5, 10, 10]
    assert made.after.count_problems() == {"wrong_size": 2}


def test_paths_inside_the_folder_become_relative(tmp_path: Path) -> None:
    given = content(
        annotations=[{"id": 3, "image_id": 1, "category_id": 3, "bbox": [1, 2, 5, 4]}],
        info={"images_root": "../images"},
    )
    folder = tmp_path / "images"
    write(folder / "unused.json", content())
    given["images"][0]["file_name"] = str(folder / "a.png")
    given["images"][1]["file_name"] = "x/../b.png"
    given["images"].append({"id": 9, "file_name": "/etc/hostname.png", "height": 4, "width": 4})
    path = write(tmp_path / "set" / "a.json", given, images=False)
    made = repair(path, tmp_path / "deep" / "er" / "fixed.json")
    assert [each["file_name"] for each in by_id(made, "images").values()] == [
        "a.png",
        "b.png",
        "/etc/hostname.png",
    ]
    # Annotations of an image that could not be used before are repaired, too.
    assert by_id(made)[3]["area"] == 20.0
    assert json.loads(made.path.read_text())["info"]["images_root"] == "../../images"
    assert made.after.count_problems() == {"image_path": 1}
    clean = repair(path, tmp_path / "clean.json", drop=["image_path"])
    assert len(clean.after.images) == 0
    assert clean.after.problems[0].kind == "no_images"


def test_images_can_be_dropped_with_their_annotations(tmp_path: Path) -> None:
    given = content(images=[{"id": 3, "file_name": "c.png", "height": 40, "width": 60}])
    path = write(tmp_path / "a.json", given)
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").write_bytes(b"broken")
    made = repair(path, tmp_path / "b.json", options=LOOK, drop=["missing_file", "unreadable_file"])
    assert list(by_id(made, "images")) == [1]
    assert list(by_id(made)) == [1]
    assert [(each["kind"], each["before"]["id"]) for each in changes(made)] == [
        ("missing_file", 2),
        ("unreadable_file", 3),
        ("missing_file", 2),
    ]
    assert made.after.count_problems() == {"unused_category": 1}


def test_records_that_are_there_twice(tmp_path: Path) -> None:
    twin = content()["images"][0]
    annotation = content()["annotations"][0]
    made = repaired(
        tmp_path,
        content(
            images=[twin, {**twin, "height": 41}],
            annotations=[{**annotation, "id": 3}],
        ),
    )
    assert brief(made) == [
        ("duplicate_image", None, None, "removed"),
        ("repeated_object", 3, None, "removed"),
    ]
    assert "duplicate_image" in made.after.count_problems()


def test_run_lengths_of_another_size_go_and_boxes_stay(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[2:5, 3:9] = 1
    rle = coco_mask.encode(mask)
    rle = {"size": [20, 30], "counts": rle["counts"].decode()}
    given = content(
        annotations=[
            {
                "id": 3,
                "image_id": 1,
                "category_id": 3,
                "bbox": [3, 2, 6, 3],
                "area": 18,
                "segmentation": rle,
            }
        ]
    )
    made = repaired(tmp_path, given)
    (change,) = changes(made)
    assert change["before"] == rle
    assert "segmentation" not in by_id(made)[3]
    assert made.after.findings == ()


def test_a_file_without_annotations_stays_one(tmp_path: Path) -> None:
    without = content(info=...)
    del without["annotations"]
    path = write(tmp_path / "a.json", without)
    made = repair(path, tmp_path / "b.json")
    assert "annotations" not in json.loads(made.path.read_text())
    assert made.after.annotated == check_coco(path).annotated == frozenset()


def test_nothing_is_overwritten_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.json", content(info=...))
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"a\.json already exists; choose another name"):
        repair(path, path)
    (tmp_path / "b.json.changes.json").write_text("mine")
    with pytest.raises(DataError, match=r"b\.json\.changes\.json already exists"):
        repair(path, tmp_path / "b.json")
    with pytest.raises(DataError, match="empty_box cannot be dropped; allowed: unknown_image"):
        repair(path, tmp_path / "c.json", drop=["empty_box"])
    listed = sorted(tmp_path.iterdir())

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    def stop_after_writing(file: Path, look: CheckOptions) -> FileCheck:
        return check_coco(file, look) if file == path else stop()

    for name, instead in (("write_content", stop), ("check_coco", stop_after_writing)):
        with monkeypatch.context() as once:
            once.setattr(f"resnet_tasks.data.doctor.repair.{name}", instead)
            with pytest.raises(KeyboardInterrupt):
                repair(path, tmp_path / "c.json")
        assert sorted(tmp_path.iterdir()) == listed
    assert path.read_bytes() == before


def test_what_is_no_coco_file_cannot_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DataError, match=r"a\.json cannot be repaired: is a list"):
        repair(tmp_path / "a.json", tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()
