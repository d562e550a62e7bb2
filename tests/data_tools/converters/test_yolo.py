"""Fixtures follow the published description of the format, docs.ultralytics.com/datasets/detect and
/datasets/segment (read 2026): the data.yaml of COCO8 and the two label lines of its example."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.converters.yolo import convert_yolo
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError, ResnetTasksError

COCO8 = """# Train/val/test sets as 1) dir: path/to/imgs, 2) file: path/to/imgs.txt, or 3) list
path: ../datasets/coco8 # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val # val images (relative to 'path')
test: # test images (optional)

# Classes
names:
  0: person
  1: bicycle
  2: car
"""
SEGMENTS = """0 0.681 0.485 0.670 0.487 0.676 0.487
1 0.504 0.000 0.501 0.004 0.498 0.004 0.493 0.010 0.492 0.0104
"""


def yolo(root: Path, labels: dict[str, str | None], description: str = COCO8) -> Path:
    """A data set of 200 x 100 (width x height) images; `None` leaves the label file out."""
    root.mkdir(exist_ok=True)
    (root / "data.yaml").write_text(description)
    for name, text in labels.items():
        image = root / f"images/{name}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((100, 200, 3), dtype=np.uint8)).save(image)
        label = root / f"labels/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    return root


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_boxes_by_hand(tmp_path: Path) -> None:
    source = yolo(
        tmp_path / "in",
        {"train/a": "2 0.5 0.5 0.1 0.2\n0 0.05 0.95 0.1 0.1\n", "val/b": "1 0.25 0.5 0.5 1\n"},
    )
    train, val = convert_yolo(source, tmp_path / "out")
    content = load(tmp_path / "out/train.json")
    assert [c["name"] for c in content["categories"]] == ["person", "bicycle", "car"]
    assert content["images"][0]["file_name"] == "images/train/a.png"
    assert [(a["category_id"], a["bbox"]) for a in content["annotations"]] == [
        (3, [90, 40, 20, 20]),
        (1, [0, 90, 20, 10]),
    ]
    assert train.objects == {"person": 1, "bicycle": 0, "car": 1}
    assert (val.split, val.images) == ("val", 1)
    assert read_coco(tmp_path / "out/val.json").annotated == {"boxes"}
    assert read_coco(tmp_path / "out/train.json").find_missing_files() == ()


def test_polygons_are_masks_with_their_boxes(tmp_path: Path) -> None:
    source = yolo(
        tmp_path / "in",
        {"train/a": "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n", "val/b": SEGMENTS},
    )
    convert_yolo(source, tmp_path / "out")
    content = load(tmp_path / "out/train.json")
    (annotation,) = content["annotations"]
    assert annotation["segmentation"] == [[20, 10, 60, 10, 60, 40, 20, 40]]
    assert (annotation["bbox"], annotation["area"]) == ([20, 10, 40, 30], 1200)
    assert read_coco(tmp_path / "out/train.json").annotated == {"boxes", "masks"}


def test_a_split_with_boxes_and_polygons_does_not_claim_masks(tmp_path: Path) -> None:
    lines = "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n0 0.5 0.5 0.1 0.2\n"
    source = yolo(tmp_path / "in", {"train/a": lines, "val/b": ""})
    convert_yolo(source, tmp_path / "out")
    coco = read_coco(tmp_path / "out/train.json")
    assert coco.annotated == {"boxes"}
    assert [a.segmentation is None for a in coco.annotations[1]] == [False, True]


def test_absent_and_empty_label_files_are_images_without_objects(tmp_path: Path) -> None:
    source = yolo(
        tmp_path / "in", {"train/a": "0 0.5 0.5 0.1 0.2\n", "train/b": "", "train/c": None}
    )
    (source / "images/val").mkdir()
    Image.new("RGB", (10, 10)).save(source / "images/val/d.png")
    with pytest.raises(DataError, match=r"none of the images of val has a label file.*val/d\.txt"):
        convert_yolo(source, tmp_path / "out")
    (source / "labels/val").mkdir()
    (source / "labels/val/d.txt").write_text("\n")
    convert_yolo(source, tmp_path / "out")
    coco = read_coco(tmp_path / "out/train.json")
    assert [len(coco.annotations[record.id]) for record in coco.images] == [1, 0, 0]
    assert read_coco(tmp_path / "out/val.json").annotated == {"boxes"}
    with pytest.raises(DataError, match=r"1 of 3 images of train have no label file.*c\.txt"):
        convert_yolo(source, tmp_path / "strict", missing_labels="error")


def test_a_test_split_without_labels_is_not_annotated(tmp_path: Path) -> None:
    description = COCO8.replace("test:", "test: images/test")
    labels = {"train/a": "0 0.5 0.5 0.1 0.2", "val/b": "", "test/c": None}
    source = yolo(tmp_path / "in", labels, description)
    *_, test = convert_yolo(source, tmp_path / "out")
    assert read_coco(tmp_path / "out/test.json").annotated == frozenset()
    assert [each.description for each in test.skipped] == ["labels of test"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "3 0.5 0.5 0.1 0.2",
            "line 2 has the class 3; the classes are 0 person, 1 bicycle, 2 car: corr",
        ),
        ("-1 0.5 0.5 0.1 0.2", "line 2 has the class -1"),
        ("0.5 0.5 0.5 0.1 0.2", "line 2 has the class 0.5"),
    ],
)
def test_wrong_classes_are_named(tmp_path: Path, line: str, message: str) -> None:
    text = f"0 0.5 0.5 0.1 0.2\n{line}\n"
    source = yolo(tmp_path / "in", {"train/a": text, "val/b": ""})
    with pytest.raises(DataError, match=rf"train/a\.txt, {message}"):
        convert_yolo(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_objects_without_area_repeated_lines_and_orphans_are_listed(tmp_path: Path) -> None:
    lines = "0 0.5 0.5 0 0.2\n1 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n2 0.1 0.1 0.1 0.1 0.1 0.1\n"
    source = yolo(tmp_path / "in", {"train/a": lines, "val/b": ""})
    (source / "labels/train/gone.txt").write_text("0 0.5 0.5 0.1 0.2")
    (source / "labels/train/classes.txt").write_text("person")
    train, _ = convert_yolo(source, tmp_path / "out")
    assert train.objects == {"person": 0, "bicycle": 1, "car": 0}
    assert [(each.file, each.description, each.reason) for each in train.skipped] == [
        ("a.txt", "person (line 1)", "it has no area inside the image"),
        ("a.txt", "bicycle (line 3)", "it repeats an earlier line"),
        ("a.txt", "car (line 4)", "it has no area inside the image"),
        ("labels/train/gone.txt", "all its objects", "there is no image of that name"),
    ]


def test_layouts_of_exporting_tools(tmp_path: Path) -> None:
    """`train: ../train/images` as Roboflow writes it, `valid`, names as a list, and list files."""
    source = tmp_path / "in"
    for split in ("train", "valid"):
        for folder in ("images", "labels"):
            (source / split / folder).mkdir(parents=True)
        Image.new("RGB", (200, 100)).save(source / split / "images/x.jpg")
        (source / split / "labels/x.txt").write_bytes(b"\xef\xbb\xbf1.0 0.5 0.5 0.1 0.2")
    (source / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['no', 7]\n"
    )
    train, val = convert_yolo(source, tmp_path / "out")
    assert train.objects == val.objects == {"no": 0, "7": 1}
    (source / "all.txt").write_text("./train/images/x.jpg\n/home/me/in/valid/images/x.jpg\n\n")
    (source / "data.yaml").write_text("train: [all.txt, train/images]\nnames: [a, b]\n")
    (only,) = convert_yolo(source, tmp_path / "lists")
    assert only.images == 2


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("train: images/train\n", "needs names"),
        ("names: [a]\n", "names none of train, val, test"),
        ("names: [a]\ntrain: images/nothing\n", "train, names 'images/nothing', but .* there is"),
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "has nc: 3, but names has 2 classes"),
        ("names: {x: a}\ntrain: images/train\n", "names has an entry for 'x'"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: images/train\n", "describes key points"),
        ("- a\n", "is not a mapping"),
        (
            "names: [a, a]\ntrain: images/train\n",
            "names has 'a' for the classes 0 and 1; give each",
        ),
        ("names: [a\n", "not valid YAML"),
        ("names: &x [a]\nother: *x\ntrain: images/train\n", "alias"),
    ],
)
def test_wrong_descriptions_are_named(tmp_path: Path, description: str, message: str) -> None:
    source = yolo(tmp_path / "in", {"train/a": ""}, description)
    with pytest.raises(ResnetTasksError, match=message):
        convert_yolo(source, tmp_path / "out")


def test_which_yaml(tmp_path: Path) -> None:
    source = yolo(tmp_path / "in", {"train/a": "0 0.5 0.5 0.1 0.2", "val/b": ""})
    (source / "data.yaml").rename(source / "coco8.yaml")
    assert len(convert_yolo(source, tmp_path / "one")) == 2
    (source / "other.yaml").write_text("names: [a]\ntrain: images/val\n")
    with pytest.raises(DataError, match="contains 2 YAML files"):
        convert_yolo(source, tmp_path / "out")
    assert len(convert_yolo(source, tmp_path / "named", data_yaml="other.yaml")) == 1
    with pytest.raises(DataError, match=r"none\.yaml is missing"):
        convert_yolo(source, tmp_path / "out", data_yaml="none.yaml")


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    yolo(tmp_path / "secret", {"train/a": "0 0.5 0.5 0.1 0.2"})
    source = yolo(tmp_path / "in", {"val/b": ""})
    (source / "data.yaml").write_text(f"names: [a]\ntrain: {tmp_path}/secret/images/train\n")
    with pytest.raises(DataError, match="has nothing under any ending of that path"):
        convert_yolo(source, tmp_path / "out")


def test_images_with_one_label_file_are_named(tmp_path: Path) -> None:
    source = yolo(tmp_path / "in", {"train/a": "0 0.5 0.5 0.1 0.2", "val/b": ""})
    twin = source / "images/train/a.jpg"
    twin.write_bytes((source / "images/train/a.png").read_bytes())
    match = r"train/a\.jpg and .*train/a\.png have the same label file .*labels/train/a\.txt"
    with pytest.raises(DataError, match=match):
        convert_yolo(source, tmp_path / "out")
    (source / "labels/train/c.txt").write_text("0 0.5 0.5 0.1 0.2")
    twin.rename(source / "images/train/c.jpg")
    train, _ = convert_yolo(source, tmp_path / "out")
    assert (train.images, train.objects["person"]) == (2, 2)


def test_names_are_read_as_written(tmp_path: Path) -> None:
    names = ["007", "1.10", "1e3", "yes", "true", "null", "0x1F", "car"]
    text = f"train: images/train\nnc: 8\nnames: [{', '.join(names)}]\n"
    source = yolo(tmp_path / "in", {"train/a": "1 0.5 0.5 0.1 0.2"}, text)
    (train,) = convert_yolo(source, tmp_path / "out")
    assert train.objects == {name: int(name == "1.10") for name in names}
    (source / "data.yaml").write_text("train: images/train\nnames:\n  0: 007\n  1: 'no'\n")
    (train,) = convert_yolo(source, tmp_path / "mapping")
    assert train.objects == {"007": 0, "no": 1}


def test_a_path_is_not_replaced_by_one_without_its_split(tmp_path: Path) -> None:
    text = "train: ../train/images\nval: ../valid/images\nnames: [a]\n"
    source = yolo(tmp_path / "in", {"a": "0 0.5 0.5 0.1 0.2", "v": ""}, text)
    (source / "valid/images").mkdir(parents=True)
    (source / "valid/labels").mkdir()
    (source / "images/v.png").rename(source / "valid/images/v.png")
    (source / "labels/v.txt").rename(source / "valid/labels/v.txt")
    with pytest.raises(DataError, match=r"train, names '../train/images', .*write 'images' if"):
        convert_yolo(source, tmp_path / "out")
    (source / "data.yaml").write_text(text.replace("../train/images", "images"))
    train, val = convert_yolo(source, tmp_path / "out")
    assert (train.warnings, val.warnings) == ((), ())


def test_a_path_of_another_machine_is_reported(tmp_path: Path) -> None:
    text = "train: /home/me/cells/images/train\nnames: [a]\n"
    source = yolo(tmp_path / "in", {"train/a": "0 0.5 0.5 0.1 0.2"}, text)
    (train,) = convert_yolo(source, tmp_path / "out")
    (warning,) = train.warnings
    assert warning.startswith("1 recorded path is not in ")
    assert warning.endswith("'/home/me/cells/images/train' is read as 'images/train'")
    for path in (f"{source}/images/train", "../in/images/train"):
        (source / "data.yaml").write_text(f"train: {path}\nnames: [a]\n")
        (train,) = convert_yolo(source, tmp_path / path.replace("/", "-"))
        assert train.warnings == ()


def test_names_that_differ_only_in_case_or_spaces_are_reported(tmp_path: Path) -> None:
    text = "train: images/train\nval: images/val\nnames: [Car, 'car ', bus]\n"
    source = yolo(tmp_path / "in", {"train/a": "1 0.5 0.5 0.1 0.2", "val/b": ""}, text)
    train, val = convert_yolo(source, tmp_path / "out")
    (warning,) = train.warnings
    assert "the classes 'Car' and 'car ' differ only in case or spaces" in warning
    assert val.warnings == ()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "line 2 has 4 values; a box has 5"),
        ("0 0.5 0.5 0.1 0.2 0.9", "line 2 has 6 values.*with a confidence it is a prediction"),
        ("0 " + ".5 " * 400_000, r"line 2 has 1,200,002 characters, more than .* 1,048,576"),
        ("0 0.1 0.1 0.3 0.1 0.3 0.4 0.1", "line 2 has 8 values; .* a polygon 7, 9, 11"),
        ("car 0.5 0.5 0.1 0.2", "line 2 is 'car 0.5 0.5 0.1 0.2'; it should contain numbers"),
        ("0 100 50 20 20", "line 2 has the value 100; .* 0 to 1: divide pixel coordinates"),
        ("0 0.5 nan 0.1 0.2", "line 2 has the value nan"),
        ("0 0.5 0.5 -0.1 0.2", "line 2 has a negative width or height"),
    ],
)
def test_one_invalid_line_is_skipped_and_many_are_refused(
    tmp_path: Path, line: str, message: str
) -> None:
    source = yolo(tmp_path / "in", {"train/a": f"0 0.5 0.5 0.1 0.2\n{line}\n", "val/b": ""})
    train, _ = convert_yolo(source, tmp_path / "out")
    assert train.objects["person"] == 1
    (skipped,) = train.skipped
    assert (skipped.file, skipped.description) == ("a.txt", "line 2")
    assert re.search(rf"train/a\.txt, {message}", skipped.reason)
    assert train.warnings[0].startswith("1 invalid object is skipped: ")
    label = source / "labels/train/a.txt"
    # 11 invalid lines of 100 are too many; 11 of 110 are not.
    valid = [f"0 0.5 0.5 {0.1 + i / 1000} 0.2" for i in range(99)]
    label.write_text("\n".join([valid[0], *[line] * 11, *valid[1:89]]))
    with pytest.raises(DataError, match=rf"{message}.*\(11 of 100 objects of train are invalid"):
        convert_yolo(source, tmp_path / "many")
    label.write_text("\n".join([valid[0], *[line] * 11, *valid[1:]]))
    train, _ = convert_yolo(source, tmp_path / "few")
    assert (train.objects["person"], len(train.skipped)) == (99, 11)
    label.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=rf"{message}.*\(1 of 1 objects of train are invalid"):
        convert_yolo(source, tmp_path / "all")


def test_coordinates_slightly_outside_are_clipped_and_counted(tmp_path: Path) -> None:
    text = "0 0.1 0.1 1.02 0.1 1.02 0.4 0.1 0.4\n1 1.01 0.5 0.1 0.2\n2 0.5 0.5 0.1 0.2\n"
    source = yolo(tmp_path / "in", {"train/a": text, "val/b": ""})
    train, _ = convert_yolo(source, tmp_path / "out")
    boxes = [annotation["bbox"] for annotation in load(tmp_path / "out/train.json")["annotations"]]
    # The second box spans x from 0.96 to 1.06 of 200 pixels, of which 192 to 200 are inside.
    assert boxes == [[20, 10, 180, 30], [192, 40, 8, 20], [90, 40, 20, 20]]
    assert train.changed == {
        "coordinates outside the image were clipped": 1,
        "boxes that end outside the image were clipped": 1,
    }


def test_an_absent_test_split_is_reported(tmp_path: Path) -> None:
    text = "train: ../images/train\ntest: ../test/images\nnames: [a]\n"
    source = yolo(tmp_path / "in", {"train/a": "0 0.5 0.5 0.1 0.2"}, text)
    (train,) = convert_yolo(source, tmp_path / "out")
    (warning,) = train.warnings
    assert warning.startswith("data.yaml names the test split '../test/images', which does not")
    (source / "data.yaml").write_text(text.replace("test:", "val:"))
    with pytest.raises(DataError, match=r"val, names '../test/images', but .* has no such path"):
        convert_yolo(source, tmp_path / "val")


@pytest.mark.parametrize("folder", ["", "labels/"])
def test_classes_in_a_text_file(folder: str, tmp_path: Path) -> None:
    source = yolo(tmp_path / "in", {"a": "1 0.5 0.5 0.1 0.2", "b": ""})
    (source / "data.yaml").unlink()
    (source / f"{folder}classes.txt").write_text("cat\nguide dog\n\n")
    (train,) = convert_yolo(source, tmp_path / "out")
    assert (train.split, train.images) == ("train", 2)
    assert train.objects == {"cat": 0, "guide dog": 1}
    assert (train.skipped, train.warnings) == ((), ())


def test_classes_in_a_text_file_with_splits_and_in_one_folder(tmp_path: Path) -> None:
    source = yolo(tmp_path / "in", {"training/a": "0 0.5 0.5 0.1 0.2", "valid/b": ""})
    (source / "data.yaml").rename(source / "classes.txt").write_text("cat\n")
    train, val = convert_yolo(source, tmp_path / "out")
    assert (train.split, train.objects, val.split, val.images) == ("train", {"cat": 1}, "val", 1)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in ("images/training/a.png", "labels/training/a.txt", "classes.txt"):
        (source / file).rename(flat / Path(file).name)
    (train,) = convert_yolo(flat, tmp_path / "one")
    assert train.objects == {"cat": 1}
    assert load(tmp_path / "one/train.json")["annotations"][0]["bbox"] == [90, 40, 20, 20]


def test_darknet(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "obj_train_data").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(source / "obj_train_data/f.png")
    (source / "obj_train_data/f.txt").write_text("0 0.5 0.5 0.1 0.2\n")
    (source / "train.txt").write_text("data/obj_train_data/f.png\n")
    (source / "obj.names").write_text("cat\n")
    (source / "obj.data").write_text(
        "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\n"
    )
    for number, given in enumerate((source, source / "obj.data")):
        (train,) = convert_yolo(given, tmp_path / f"out{number}")
        assert train.objects == {"cat": 1}
    (source / "obj.data").write_text("train = train.txt\n")
    with pytest.raises(DataError, match=r"obj\.data needs the key names"):
        convert_yolo(source, tmp_path / "none")


def test_the_number_of_classes_may_be_text(tmp_path: Path) -> None:
    description = "nc: '2'\nnames: [a, b]\ntrain: images/train\n"
    source = yolo(tmp_path / "in", {"train/a": "1 0.5 0.5 0.1 0.2"}, description)
    (train,) = convert_yolo(source, tmp_path / "out")
    assert train.objects == {"a": 0, "b": 1}


@pytest.mark.parametrize("line", ["1 0,5 0,5 0,1 0,2", "1, 0.5, 0.5, 0.1, 0.2", "1 0.5 0,5 .1 0.2"])
def test_commas_in_lines_are_repaired_and_counted(tmp_path: Path, line: str) -> None:
    source = yolo(tmp_path / "in", {"train/a": line, "val/b": "0 0.5 0.5 0.1 0.2"})
    train, val = convert_yolo(source, tmp_path / "out")
    (annotation,) = load(tmp_path / "out/train.json")["annotations"]
    assert annotation["bbox"] == [90, 40, 20, 20]
    assert train.warnings == (
        "commas in numbers are read as decimal points, commas after them ignored: 1 file (a.txt)",
    )
    assert val.warnings == ()


@pytest.mark.parametrize("images", ["images", "Images", "IMAGES"])
@pytest.mark.parametrize(
    "label", ["labels/train/A.TXT", "Labels/train/A.txt", "LABELS/train/A.Txt"]
)
def test_label_files_in_another_case_are_found(tmp_path: Path, images: str, label: str) -> None:
    root = yolo(tmp_path / "in", {}, f"names: [a]\ntrain: {images}/train\n")
    for name in ("A.JPG", "b.jpg"):
        file = root / images / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((100, 200, 3), dtype=np.uint8)).save(file)
    (root / label).parent.mkdir(parents=True)
    (root / label).write_text("0 0.5 0.5 0.1 0.2")
    (root / label).with_name("c.TXT").write_text("0 0.5 0.5 0.1 0.2")
    (train,) = convert_yolo(root, tmp_path / "out")
    assert (train.images, train.objects) == (2, {"a": 1})
    (orphan,) = train.skipped
    assert Path(orphan.file).name == "c.TXT"


def test_hidden_files_in_a_list_are_ignored(tmp_path: Path) -> None:
    labels: dict[str, str | None] = {"train/a": "0 0.5 0.5 0.1 0.2"}
    source = yolo(tmp_path / "in", labels, "names: [a]\ntrain: train.txt\n")
    (source / "images/train/.ipynb_checkpoints").mkdir()
    (source / "images/train/.ipynb_checkpoints/a-checkpoint.png").write_bytes(b"1")
    (source / "train.txt").write_text(
        "./images/train/a.png\nimages/train/._a.png\n"
        "images/train/.ipynb_checkpoints/a-checkpoint.png\n"
    )
    (train,) = convert_yolo(source, tmp_path / "out")
    assert (train.images, train.objects) == (1, {"a": 1})
