import json
from pathlib import Path
from typing import Any

import pytest

from data_tools.catalog import convert, prepare
from data_tools.converters.kitti import CLASSES
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import image, kitti, text


def written(out: Path, split: str) -> dict[str, Any]:
    return dict(json.loads((out / f"{split}.json").read_text()))


def test_boxes_and_what_is_known_of_them(tmp_path: Path) -> None:
    card = prepare("kitti", kitti.write(tmp_path / "in"), tmp_path / "out")
    val = written(tmp_path / "out", "val")
    assert [each["name"] for each in val["categories"]] == list(CLASSES)
    assert [image["file_name"] for image in val["images"]] == ["training/image_2/000001.png"]
    boxes = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in val["annotations"]]
    assert boxes == [
        (1, [8.22, 15.25, 31.37, 22.94], 0),
        (4, [50.76, 9.08, 14, 54.29], 0),
        (2, [70.62, 12.16, 25.38, 19.45], 0),  # cut at the width of 96
        (9, [2.5, 40, 17.5, 20], 1),
    ]
    known = [a.get("attributes") for a in val["annotations"]]
    assert known[:3] == [
        {"occluded": 1, "truncated": 0.0},
        {"occluded": 0, "truncated": 0.31},
        {"occluded": 3, "truncated": 0.0},
    ]
    assert known[3] is None
    read = read_coco(tmp_path / "out" / "val.json")
    assert read.problems == ()
    ((car, *_, region),) = read.annotations.values()
    assert (car.occluded, car.truncated) == (1, 0)
    assert (region.occluded, region.is_crowd) == (None, True)
    assert "splits by the lists in ImageSets\n" in card.to_markdown()
    assert "unverified on the full dataset" in card.to_markdown()


def test_a_split_must_be_stated(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    (source / "ImageSets").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no val split, and val_fraction is 0\.0: put"):
        convert("kitti", source, tmp_path / "out")
    card = convert("kitti", source, tmp_path / "out", lists=tmp_path / "elsewhere")
    assert [split.images for split in card.splits] == [2, 1]
    with pytest.raises(DataError, match="both choose the splits"):
        convert("kitti", source, tmp_path / "x", lists=tmp_path / "elsewhere", val_fraction=0.5)
    card = convert("kitti", source, tmp_path / "drawn", val_fraction=0.34)
    assert [split.images for split in card.splits] == [2, 1]
    assert "are not known, so both splits may contain frames of one drive" in card.to_markdown()
    text(tmp_path / "elsewhere/val.txt", "000000\n")
    with pytest.raises(DataError, match=r"train\.txt and val\.txt both list '000000'; splits"):
        convert("kitti", source, tmp_path / "x", lists=tmp_path / "elsewhere")
    text(tmp_path / "elsewhere/val.txt", "000001\n000000\n")
    text(tmp_path / "elsewhere/train.txt", "000000\n000001\n")
    with pytest.raises(DataError, match=r"both list '000000' and 1 more; splits"):
        convert("kitti", source, tmp_path / "x", lists=tmp_path / "elsewhere")
    text(tmp_path / "elsewhere/val.txt", "000007\n")
    with pytest.raises(DataError, match=r"val\.txt lists '000007', but .*image_2 has no such"):
        convert("kitti", source, tmp_path / "x", lists=tmp_path / "elsewhere")


def test_drives_stay_whole(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    for number in range(3, 8):
        image(source / f"training/image_2/{number:06d}.png")
        text(source / f"training/label_2/{number:06d}.txt", "")
    drives = [f"2011_09_26 2011_09_26_drive_{n // 2:04d}_sync {n:010d}" for n in range(8)]
    text(tmp_path / "kit/train_mapping.txt", "\n".join(drives) + "\n")
    text(tmp_path / "kit/train_rand.txt", "8,1,7,2,6,3,5,4\n")
    options = {"val_fraction": 0.5, "mapping": tmp_path / "kit"}
    card = convert("kitti", source, tmp_path / "out", **options)
    assert "(val_fraction 0.5, seed 0) by drives" in card.to_markdown()
    groups = {}
    for split in ("train", "val"):
        images = written(tmp_path / "out", split)["images"]
        groups[split] = {record["group"] for record in images}
        assert len(images) == 4
        for record in images:
            # Image 0 is line 8 of the mapping: frame 7, the drive 7 // 2.
            frame = (7, 0, 6, 1, 5, 2, 4, 3)[int(Path(record["file_name"]).stem)]
            assert record["group"] == f"2011_09_26_drive_{frame // 2:04d}_sync"
    assert not groups["train"] & groups["val"]
    text(tmp_path / "kit/train_rand.txt", "8,9")
    with pytest.raises(DataError, match=r"entry 2 of .*train_rand\.txt is '9'; .* 1 to 8"):
        convert("kitti", source, tmp_path / "x", **options)


GOOD = kitti.LABELS.splitlines()[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD + " 0.98", "has 16 fields; a label has 15; 16 fields are a detection result"),
        ("Car 0 0", "has 3 fields"),
        (GOOD.replace("8.22", "x"), "has '0.00 1 2.13 x 15.25 39.59 38.19' as truncated"),
        (GOOD.replace("8.22", "nan"), "has the box [nan, 15.25, 39.59, 38.19]; its edges must be"),
    ],
)
def test_a_few_invalid_lines_are_skipped_and_many_are_not(
    line: str, message: str, tmp_path: Path
) -> None:
    source = kitti.write(tmp_path / "in")
    labels = source / "training/label_2/000001.txt"
    text(labels, f"{GOOD}\n{line}\n")
    val = convert("kitti", source, tmp_path / "out").splits[1]
    assert (val.objects["Car"], sum(val.objects.values())) == (1, 1)
    (skipped,) = val.skipped
    assert (skipped.file, skipped.description) == ("000001.txt", "line 2")
    assert skipped.reason.startswith(f"{labels}, line 2 {message}")
    assert val.warnings == (f"1 invalid object is skipped: {skipped.reason}",)
    text(labels, f"{GOOD}\n{line}\n" + f"{line}\n" * 10)
    with pytest.raises(DataError, match=r"label_2/000001\.txt, line 2 .*\(11 of 12 objects of val"):
        convert("kitti", source, tmp_path / "many")
    text(labels, f"{line}\n")
    with pytest.raises(DataError, match=r"line 1 .*\(1 of 1 objects of val are invalid"):
        convert("kitti", source, tmp_path / "only")
    assert not (tmp_path / "only").exists()


def test_an_unknown_type_is_no_invalid_object(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    text(source / "training/label_2/000001.txt", f"{GOOD}\n{GOOD.replace('Car', 'Auto')}\n")
    with pytest.raises(DataError, match=r"000001\.txt, line 2 has the type 'Auto'; KITTI has Car"):
        convert("kitti", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("start", "attributes"),
    [
        ("1.50 1", {"occluded": 1}),
        ("0.25 4", {"truncated": 0.25}),
        ("-1 -1", {}),
        ("nan 2", {"occluded": 2}),
    ],
)
def test_visibility_out_of_range_is_unknown_and_the_box_is_converted(
    start: str, attributes: dict[str, float], tmp_path: Path
) -> None:
    source = kitti.write(tmp_path / "in")
    text(source / "training/label_2/000001.txt", GOOD.replace("0.00 1", start))
    val = convert("kitti", source, tmp_path / "out").splits[1]
    (annotation,) = written(tmp_path / "out", "val")["annotations"]
    assert annotation.get("attributes", {}) == attributes
    assert val.changed == {"occluded or truncated out of range was taken as unknown": 1}


@pytest.mark.parametrize("line", [f"0 1 {GOOD}", f"12 -1 {GOOD} 0.9", f"7 0 {GOOD}".lower()])
def test_labels_of_the_tracking_benchmark_are_named(line: str, tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    text(source / "training/label_2/000001.txt", f"{GOOD}\n{line}\n")
    with pytest.raises(
        DataError,
        match=rf"000001\.txt, line 2 has {len(line.split())} fields: these are labels of KITTI's "
        r"tracking benchmark, .*without the first two fields \(frame and track id\)$",
    ):
        convert("kitti", source, tmp_path / "out")


def test_the_folders_of_the_tracking_benchmark_are_named(tmp_path: Path) -> None:
    image(tmp_path / "in/training/image_02/0000/000000.png")
    text(tmp_path / "in/training/label_02/0000.txt", f"0 1 {GOOD}\n")
    with pytest.raises(DataError, match=r"contains training/label_02: .* tracking benchmark"):
        convert("kitti", tmp_path / "in", tmp_path / "out")


def test_an_invalid_line_is_no_class_of_the_source(tmp_path: Path) -> None:
    source = tmp_path / "in"
    line = GOOD.replace("Car", "helmet")
    for number in range(2):
        image(source / f"training/image_2/{number}.png")
        text(source / f"training/label_2/{number}.txt", f"{line}\nrubbish 1 2\n")
    text(source / "ImageSets/train.txt", "0\n")
    text(source / "ImageSets/val.txt", "1\n")
    train, _ = convert("kitti", source, tmp_path / "out").splits
    assert train.objects == {"helmet": 1, "DontCare": 0}


def test_boxes_without_area_and_labels_that_are_missing(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    text(source / "training/label_2/000001.txt", GOOD.replace("39.59", "8.22"))
    card = convert("kitti", source, tmp_path / "out")
    (skipped,) = card.splits[1].skipped
    assert (skipped.file, skipped.description[:12]) == ("000001.txt", "Car (line 1)")
    (source / "training/label_2/000001.txt").unlink()
    with pytest.raises(DataError, match=r"the label file .*000001\.txt is missing"):
        convert("kitti", source, tmp_path / "other")


def test_own_classes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    fields = "0.00 0 0.00 10.00 10.00 40.00 40.00 0 0 0 0 0 0 0"
    for number, line in enumerate((f"helmet {fields}\n", f"head {fields}\nDontCare {fields}\n")):
        image(source / f"training/image_2/{number}.png")
        text(source / f"training/label_2/{number}.txt", line)
    text(source / "ImageSets/train.txt", "0\n")
    text(source / "ImageSets/val.txt", "1\n")
    train, val = convert("kitti", source, tmp_path / "out").splits
    assert train.objects == {"head": 0, "helmet": 1, "DontCare": 0}
    assert val.objects == {"head": 1, "helmet": 0, "DontCare": 1}
    # Among the types of KITTI, another type may be a mistake.
    text(source / "training/label_2/0.txt", f"helmet {fields}\nCar {fields}\n")
    with pytest.raises(
        DataError, match=r"has the type 'helmet'; KITTI has Car.*classes=\[\.\.\.\]"
    ):
        convert("kitti", source, tmp_path / "mixed")
    names = ["helmet", "head", "Car", "DontCare"]
    train, _ = convert("kitti", source, tmp_path / "named", classes=names).splits
    assert train.objects == {"helmet": 1, "head": 0, "Car": 1, "DontCare": 0}


def test_relative_boxes_are_rejected(tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    for file in (source / "training/label_2").iterdir():
        text(file, "Car 0.00 0 0.0 0.1 0.2 0.4 0.6 1 1 1 1 1 1 1\n")
    with pytest.raises(DataError, match=r"train: 2 of 2 boxes have no coordinate outside 0\.\.1"):
        convert("kitti", source, tmp_path / "out")
