import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert
from data_tools.converters.native_coco import convert_coco
from data_tools.reading.coco_splits import find_coco_splits
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError

POLYGON = [2.0, 3, 12, 3, 12, 8, 2, 8]


def source(root: Path, changes: dict[str, Any] | None = None, **annotation: Any) -> Path:
    """One 20 x 10 (width x height) image in a sub-folder that the file does not name."""
    (root / "images/A172").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(root / "images/A172/a.tif")
    full = {
        "id": 70,
        "image_id": 9,
        "category_id": 5,
        "bbox": [2, 3, 10, 5],
        "area": 50,
        "iscrowd": 0,
        "segmentation": [POLYGON],
    }
    content: dict[str, Any] = {
        "info": {"description": "LIVECell 2021"},
        "images": [{"id": 9, "file_name": "a.tif", "height": 10, "width": 20, "url": "x"}],
        "categories": [{"id": 5, "name": "cell", "supercategory": "thing"}],
        "annotations": [{k: v for k, v in (full | annotation).items() if v is not None}],
    }
    (root / "val.json").write_text(json.dumps(content | (changes or {})))
    return root


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_classes_of_crowds_only_are_reported(tmp_path: Path) -> None:
    mask = {"size": [10, 20], "counts": [10, 20, 170]}
    crowd = {"iscrowd": 1, "segmentation": mask, "bbox": [1, 0, 2, 10], "area": 20}
    (summary,) = convert_coco(source(tmp_path / "in", **crowd), tmp_path / "out")
    (warning,) = summary.warnings
    assert warning.startswith("all objects of cell are marked as ignored")
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert annotation["iscrowd"] == 1


def test_what_is_complete_stays_as_it_is(tmp_path: Path) -> None:
    (summary,) = convert_coco(source(tmp_path / "in"), tmp_path / "out", license_name="MIT")
    content = load(tmp_path / "out/val.json")
    assert content["annotations"] == [
        {
            "id": 70,
            "image_id": 9,
            "category_id": 5,
            "bbox": [2, 3, 10, 5],
            "area": 50.0,
            "iscrowd": 0,
            "segmentation": [POLYGON],
        }
    ]
    assert content["images"] == [
        {"url": "x", "id": 9, "file_name": "images/A172/a.tif", "height": 10, "width": 20}
    ]
    assert content["categories"] == [
        {"id": 5, "name": "cell", "isthing": 1, "supercategory": "thing"}
    ]
    assert (summary.objects, summary.changed, summary.skipped) == ({"cell": 1}, {}, ())
    coco = read_coco(tmp_path / "out/val.json")
    assert (coco.problems, coco.find_missing_files(), coco.annotated) == (
        (),
        (),
        {"boxes", "masks"},
    )


def test_what_is_missing_is_filled_in_and_counted(tmp_path: Path) -> None:
    given = source(tmp_path / "in", {"info": None}, iscrowd=None, area=None, bbox=None)
    (summary,) = convert_coco(given, tmp_path / "out")
    (annotation,) = load(tmp_path / "out/val.json")["annotations"]
    assert (annotation["iscrowd"], annotation["area"], annotation["bbox"]) == (0, 50, [2, 3, 10, 5])
    assert len(summary.changed) == 4
    assert read_coco(tmp_path / "out/val.json").problems == ()


def test_records_keyed_by_id_are_taken(tmp_path: Path) -> None:
    """As in single-cell files of LIVECell (issues 9 and 23 of sartorius-research/LIVECell)."""
    given = source(tmp_path / "in")
    content = load(given / "val.json")
    content["annotations"] = {"70": content["annotations"][0]}
    (given / "val.json").write_text(json.dumps(content))
    convert_coco(given, tmp_path / "out")
    assert [a["id"] for a in load(tmp_path / "out/val.json")["annotations"]] == [70]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["val.json"]


@pytest.mark.parametrize("keys", [("images",), ("annotations",), ("images", "annotations")])
def test_keyed_records_are_taken_wherever_they_stand(tmp_path: Path, keys: tuple[str, ...]) -> None:
    given = source(tmp_path / "in")
    content = load(given / "val.json")
    for key in keys:
        content[key] = {str(record["id"]): record for record in content[key]}
    late = {"padding": "x" * (1 << 20), **content}
    (given / "val.json").write_text(json.dumps(late, separators=(" , ", " : ")))
    convert_coco(given, tmp_path / "out")
    converted = load(tmp_path / "out/val.json")
    assert [[record["id"] for record in converted[key]] for key in ("images", "annotations")] == [
        [9],
        [70],
    ]
    with pytest.raises(DataError, match=f"`{keys[0]}` must be a list"):
        read_coco(given / "val.json")


def test_label_maps_of_keyed_files_are_found_and_messages_name_the_file(tmp_path: Path) -> None:
    record = {
        "id": 9,
        "file_name": "a.tif",
        "height": 10,
        "width": 20,
        "sem_seg_file_name": "a.png",
    }
    given = source(tmp_path / "in", {"images": {"9": record}}, bbox=[2, 3, 0, 5])
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(given / "a.png")
    (summary,) = convert_coco(given, tmp_path / "out")
    (image,) = load(tmp_path / "out/val.json")["images"]
    assert image["sem_seg_file_name"] == "semantic/val/a.png"
    assert (tmp_path / "out/semantic/val/a.png").is_file()
    assert [skipped.file for skipped in summary.skipped] == ["val.json"]
    assert "listed" not in repr(summary)


def test_licenses_of_the_file_are_kept_unless_one_is_stated(tmp_path: Path) -> None:
    licenses = [{"id": 3, "name": "CC BY 4.0", "url": "x"}]
    given = source(tmp_path / "in", {"licenses": licenses})
    convert_coco(given, tmp_path / "out")
    assert load(tmp_path / "out/val.json")["licenses"] == licenses
    convert_coco(given, tmp_path / "stated", license_name="MIT")
    assert load(tmp_path / "stated/val.json")["licenses"] == [{"id": 1, "name": "MIT"}]
    convert_coco(source(tmp_path / "none"), tmp_path / "nothing")
    assert load(tmp_path / "nothing/val.json")["licenses"] == []


def test_objects_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    given = source(tmp_path / "in", bbox=[2, 3, 0, 5])
    (summary,) = convert_coco(given, tmp_path / "out")
    assert load(tmp_path / "out/val.json")["annotations"] == []
    assert [each.description for each in summary.skipped] == ["annotation 70"]
    assert summary.objects == {"cell": 0}


def test_run_lengths_crowds_groups_and_label_maps_are_kept(tmp_path: Path) -> None:
    record = {
        "id": 9,
        "file_name": "a.tif",
        "height": 10,
        "width": 20,
        "group": "p",
        "spacing": [1, 2],
    }
    lengths = {"size": [10, 20], "counts": [23, 5, 172]}
    given = source(
        tmp_path / "in",
        {"images": [record | {"sem_seg_file_name": "maps/a.png"}]},
        segmentation=lengths,
        iscrowd=1,
        occluded=2,
    )
    (given / "maps").mkdir()
    Image.fromarray(np.zeros((10, 20), dtype=np.uint8)).save(given / "maps/a.png")
    convert_coco(given, tmp_path / "out", copy_images=True)
    content = load(tmp_path / "out/val.json")
    (annotation,), (image,) = content["annotations"], content["images"]
    assert (annotation["iscrowd"], annotation["occluded"]) == (1, 2)
    assert annotation["segmentation"] == lengths
    assert (image["group"], image["spacing"]) == ("p", [1, 2])
    assert image["file_name"] == "images/val/images/A172/a.tif"
    assert "images_root" not in content["info"]
    assert read_coco(tmp_path / "out/val.json").find_missing_files() == ()


def test_images_must_be_there_once_and_fit(tmp_path: Path) -> None:
    given = source(tmp_path / "in")
    (given / "images/BV2").mkdir()
    Image.new("L", (20, 10)).save(given / "images/BV2/a.tif")
    with pytest.raises(DataError, match=r"a\.tif of image 9 is not in .*A172/a\.tif and .*BV2"):
        convert_coco(given, tmp_path / "out")
    convert_coco(given, tmp_path / "out", images="images/A172")
    for path in given.glob("images/*/a.tif"):
        path.unlink()
    with pytest.raises(DataError, match="no file there has that name"):
        convert_coco(given, tmp_path / "no")
    Image.new("L", (21, 10)).save(given / "a.tif")
    with pytest.raises(DataError, match=r"has height 10 and width 20, but .* has 10 and 21"):
        convert_coco(given, tmp_path / "no")


def test_errors_of_the_file_are_told(tmp_path: Path) -> None:
    given = source(tmp_path / "in", category_id=6)
    with pytest.raises(DataError, match="known ids: 5"):
        convert_coco(given, tmp_path / "out")
    with pytest.raises(
        DataError, match="annotations names the splits holdout; allowed: train, val"
    ):
        convert_coco(given, tmp_path / "out", annotations={"holdout": "val.json"})
    with pytest.raises(DataError, match=r"none\.json is missing"):
        convert_coco(given, tmp_path / "out", annotations={"val": "none.json"})
    assert not (tmp_path / "out").exists()


def test_splits_are_told_by_names(tmp_path: Path, shared_data: Path) -> None:
    assert find_coco_splits(shared_data / "coco_tiny") == {
        split: shared_data / f"coco_tiny/annotations/instances_{split}2017.json"
        for split in ("train", "val")
    }
    for name in ("a_train.json", "b_train.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        DataError, match=r"a_train\.json and .*b_train\.json both belong to the split train"
    ):
        find_coco_splits(tmp_path)
    (tmp_path / "train.json").write_text("{}")
    assert find_coco_splits(tmp_path) == {"train": tmp_path / "train.json"}


def test_the_coco_sample(shared_data: Path, tmp_path: Path) -> None:
    train, val = convert_coco(shared_data / "coco_tiny", tmp_path / "out")
    assert (train.images, val.images) == (80, 80)
    before = load(shared_data / "coco_tiny/annotations/instances_val2017.json")
    after = load(tmp_path / "out/val.json")
    by_id = {a["id"]: a for a in after["annotations"]}
    assert len(by_id) == len(before["annotations"])
    for annotation in before["annotations"]:
        assert by_id[annotation["id"]] == annotation
    coco = read_coco(tmp_path / "out/val.json")
    assert (coco.problems, coco.find_missing_files()) == ((), ())


def test_fields_that_are_not_interpreted_are_copied(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    content = json.loads((folder / "val.json").read_text())
    image_fields = {"license": 3, "coco_url": "http://x/a.jpg", "station": "north"}
    object_fields = {"attributes": {"colour": "red"}, "keypoints": [1, 2, 2], "score": 0.9}
    content["images"][0] |= image_fields
    content["annotations"][0] |= object_fields
    content["categories"][0] |= {"keypoints": ["nose"], "color": "#ff0000"}
    content["licenses"] = [{"id": 3, "name": "CC BY-NC 4.0", "url": "u"}]
    content["videos"] = [{"id": 1}]
    (folder / "val.json").write_text(json.dumps(content))
    convert_coco(folder, tmp_path / "out")
    written = json.loads((tmp_path / "out/val.json").read_text())
    assert image_fields.items() <= written["images"][0].items()
    (annotation,) = (
        a for a in written["annotations"] if a["id"] == content["annotations"][0]["id"]
    )
    assert object_fields.items() <= annotation.items()
    assert annotation["bbox"] == content["annotations"][0]["bbox"]
    (category,) = (c for c in written["categories"] if c["id"] == content["categories"][0]["id"])
    assert (category["keypoints"], category["color"]) == (["nose"], "#ff0000")
    assert (written["licenses"], written["videos"]) == (content["licenses"], [{"id": 1}])
    # The license of the option replaces those of the file.
    convert_coco(folder, tmp_path / "named", license_name="CC0")
    written = json.loads((tmp_path / "named/val.json").read_text())
    assert written["licenses"] == [{"id": 1, "name": "CC0"}]
    assert written["images"][0]["license"] == 1


def test_boxes_as_fractions_are_rejected(tmp_path: Path) -> None:
    relative = source(tmp_path / "in", bbox=[0.1, 0.3, 0.5, 0.5], segmentation=None)
    with pytest.raises(DataError, match=r"1 of 1 box has no .* --convert relative_boxes"):
        convert_coco(relative, tmp_path / "out")


def test_boxes_that_look_like_corners(tmp_path: Path) -> None:
    # As [x, y, width, height], the box would end at x = 27 of 20.
    corners = source(tmp_path / "in", bbox=[9, 3, 18, 8], segmentation=None)
    (summary,) = convert_coco(corners, tmp_path / "out")
    (warning,) = summary.warnings
    assert "1 of 1 box would end outside the image" in warning
    assert "--convert corner_boxes" in warning


def test_splits_in_folders_with_images_of_the_same_names(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid")):
        folder = tmp_path / f"in/{split}"
        folder.mkdir(parents=True)
        Image.new("RGB", (20 + number, 10)).save(folder / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20 + number}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [2, 3, 4, 5]}],
            "categories": [{"id": 5, "name": "cell"}],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    train, val = convert("coco", tmp_path / "in", tmp_path / "out").splits
    assert (train.split, val.split) == ("train", "val")
    assert load(tmp_path / "out/val.json")["images"][0]["file_name"] == "valid/a.png"
    file = tmp_path / "in/valid/_annotations.coco.json"
    (val,) = convert("coco", file, tmp_path / "one").splits
    assert (val.split, val.images) == ("val", 1)
    with pytest.raises(DataError, match="lies inside the source"):
        convert("coco", file, tmp_path / "in/valid/out")


def test_file_names_in_the_url_of_lvis(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    content = json.loads((folder / "val.json").read_text())
    del content["images"][0]["file_name"]
    content["images"][0]["coco_url"] = "http://images.cocodataset.org/A172/a.tif"
    (folder / "val.json").write_text(json.dumps(content))
    (summary,) = convert_coco(folder, tmp_path / "out")
    assert summary.objects == {"cell": 1}
    (record,) = load(tmp_path / "out/val.json")["images"]
    assert record["file_name"] == "images/A172/a.tif"
    assert record["coco_url"].endswith("A172/a.tif")


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\label-studio\\media\\upload\\4\\a.tif",
        "../../media/a.tif",
        "/home/me/A172/a.tif",
        "C:\\data\\a.tif",
        "../train/a.tif",
    ],
)
def test_names_that_lead_out_of_the_source_are_found_by_their_last_part(
    name: str, tmp_path: Path
) -> None:
    image_record = {"id": 9, "file_name": name, "height": 10, "width": 20}
    folder = source(tmp_path / "in", {"images": [image_record]})
    if "train" in name:
        with pytest.raises(DataError, match="path lacks the name of the split"):
            convert_coco(folder, tmp_path / "out")
        return
    (summary,) = convert_coco(folder, tmp_path / "out")
    assert load(tmp_path / "out/val.json")["images"][0]["file_name"] == "images/A172/a.tif"
    is_shortened = "media" in name or name.startswith(("/", "C"))
    warning = f"1 recorded path is not in {folder}; the end of the path is used: {name!r} is read"
    assert [text.startswith(warning) for text in summary.warnings] == [True] * is_shortened


def test_an_image_outside_the_source_is_not_read(tmp_path: Path) -> None:
    image_record = {"id": 9, "file_name": "../b.tif", "height": 10, "width": 20}
    folder = source(tmp_path / "in", {"images": [image_record]})
    (folder / "images/A172/a.tif").rename(tmp_path / "b.tif")
    with pytest.raises(
        DataError, match=r"the file \.\./b\.tif of image 9 is not in .*no file there"
    ):
        convert_coco(folder, tmp_path / "out")
    image_record |= {"file_name": "a.tif", "sem_seg_file_name": "../../b.tif"}
    folder = source(tmp_path / "in", {"images": [image_record]})
    with pytest.raises(DataError, match=r"semantic map of image 9 is \.\./\.\./b\.tif, which is"):
        convert_coco(folder, tmp_path / "out")


def test_folders_decide_between_images_of_one_name(tmp_path: Path) -> None:
    image_record = {"id": 9, "file_name": "..\\up\\B3\\a.tif", "height": 10, "width": 20}
    folder = source(tmp_path / "in", {"images": [image_record]})
    (folder / "images/B3").mkdir()
    shutil.copy(folder / "images/A172/a.tif", folder / "images/B3/a.tif")
    convert_coco(folder, tmp_path / "out")
    assert load(tmp_path / "out/val.json")["images"][0]["file_name"] == "images/B3/a.tif"
    (folder / "images/B3").rename(folder / "images/C4")
    with pytest.raises(DataError, match=r"image 9 names .* which may be .*A172.* or .*C4.*; keep"):
        convert_coco(folder, tmp_path / "other")


def test_repeated_objects_are_reported(tmp_path: Path) -> None:
    base = {"image_id": 9, "category_id": 5, "area": 50, "iscrowd": 0}
    with_mask = {**base, "bbox": [2, 3, 10, 5], "segmentation": [POLYGON]}
    annotations = [
        {**with_mask, "id": 1},
        {**base, "id": 2, "bbox": [2.001, 3, 10, 5], "segmentation": []},
        {**base, "id": 3, "bbox": [1, 1, 5, 5]},
        {**base, "id": 4, "bbox": [1, 1, 5, 5]},
        {**base, "id": 5, "bbox": [1, 1.5, 5, 5]},
    ]
    folder = source(tmp_path / "in", {"annotations": annotations})
    (summary,) = convert_coco(folder, tmp_path / "out")
    assert summary.objects == {"cell": 5}
    repeated, twin = summary.warnings
    assert "1 annotation is the same as another one of the image" in repeated
    assert "annotation 4 of image 9" in repeated
    assert twin == (
        f"{folder / 'val.json'}: 1 object is annotated twice, with and without mask: annotation 2 "
        "of image 9; remove the one without it"
    )


def test_two_images_are_not_one_file(tmp_path: Path) -> None:
    names = ("../4/a.tif", "../5/a.tif")
    records = [
        {"id": 9 + i, "file_name": name, "height": 10, "width": 20} for i, name in enumerate(names)
    ]
    folder = source(tmp_path / "in", {"images": records})
    with pytest.raises(DataError, match=r"images \.\./4/a\.tif and \.\./5/a\.tif, but only one"):
        convert_coco(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["images\\A172\\a.tif", ".\\A172\\a.tif", "A17\\a.tif"])
def test_backslashes_in_file_names_separate_folders(tmp_path: Path, name: str) -> None:
    images = [{"id": 9, "file_name": name, "height": 10, "width": 20}]
    convert_coco(source(tmp_path / "in", {"images": images}), tmp_path / "out")
    (record,) = load(tmp_path / "out/val.json")["images"]
    assert record["file_name"] == "images/A172/a.tif"


def test_a_warning_names_the_repair_of_skipped_outlines_and_boxes(tmp_path: Path) -> None:
    (summary,) = convert_coco(source(tmp_path / "in", segmentation=POLYGON), tmp_path / "out")
    file = tmp_path / "in/val.json"
    command = f"`resnet-tasks data check {file} --fix COPY`"
    assert summary.warnings == (f"{file} has 1 skipped mask, which {command} may repair",)
    annotation = load(file)["annotations"][0]
    turned = {**annotation, "id": 71, "bbox": [12, 8, -10, -5], "segmentation": [POLYGON]}
    folder = source(tmp_path / "more", {"annotations": [annotation, turned]})
    (summary,) = convert_coco(folder, tmp_path / "out2")
    assert [warning.partition(" has ")[2].partition(",")[0] for warning in summary.warnings] == [
        "1 skipped mask",
        "1 skipped box",
    ]
    assert summary.objects == {"cell": 1}
