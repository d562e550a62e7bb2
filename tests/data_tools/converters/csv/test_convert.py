import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert, load_datasets, prepare
from data_tools.converters.csv.convert import convert_csv_boxes
from data_tools.converters.dicom.options import DicomOptions
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.decoding import decode_image
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import image, text, vindr_cxr

HEADER = "image_id,class_name,x_min,y_min,x_max,y_max\n"


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def boxes(file: Path) -> list[tuple[Any, ...]]:
    content = load(file)
    names = {each["id"]: each["file_name"] for each in content["images"]}
    return [
        (Path(names[a["image_id"]]).stem[-1], *a["bbox"], a.get("attributes"))
        for a in content["annotations"]
    ]


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    return vindr_cxr.write(tmp_path / "in")


def images(root: Path, rows: str, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for name in names:
        image(root / name)
    text(root / "train.csv", HEADER + rows)
    return root


def test_vindr_cxr_merged(vindr: Path, tmp_path: Path) -> None:
    card = prepare("vindr_cxr", vindr, tmp_path / "out", **vindr_cxr.OPTIONS)
    assert [(each.split, each.images) for each in card.splits] == [
        ("train", 2),
        ("val", 1),
        ("test", 2),
    ]
    assert boxes(tmp_path / "out/train.json") == [
        ("1", 10.5, 12, 10, 12, {"readers": 1}),
        ("2", 41, 8, 20, 22, {"readers": 3}),
    ]
    assert boxes(tmp_path / "out/val.json") == [("0", 21, 30, 50, 30, {"readers": 2})]
    assert boxes(tmp_path / "out/test.json") == [("7", 10, 40, 30, 30, {"readers": 1})]
    for split in card.splits:
        read = read_coco(tmp_path / "out" / f"{split.split}.json")
        assert read.problems == ()
        assert len(read.categories) == 22
        assert read.annotated == {"boxes"}
        assert all(each.spacing == (0.139, 0.139) for each in read.images)
    # What nobody found anything in is there, and a normal image.
    assert len(read.annotations[read.images[1].id]) == 0
    assert decode_image(read.image_path(read.images[0])).pixels.dtype == np.uint16
    assert "unverified" in card.to_markdown()


def test_readers_apart(vindr: Path, tmp_path: Path) -> None:
    def run(readers: str) -> list[tuple[Any, ...]]:
        convert_csv_boxes(vindr, tmp_path / readers, readers=readers)
        return boxes(tmp_path / readers / "train.json")

    assert [each[-1]["reader"] for each in run("all")] == ["R1", "R2", "R1", "R1", "R2", "R3"]
    assert run("R2") == [
        ("0", 22, 30, 50, 30, {"reader": "R2"}),
        ("2", 41, 8, 20, 22, {"reader": "R2"}),
    ]
    # The consensus of test has no readers and is kept as it is.
    assert boxes(tmp_path / "R2/test.json") == [("7", 10, 40, 30, 30, None)]
    assert len(load(tmp_path / "R2/train.json")["images"]) == 3
    with pytest.raises(
        DataError, match="no row is by the reader 'R9'; the readers are R1, R2, R3;"
    ):
        run("R9")


def test_images_that_a_reader_did_not_see_are_left_out(vindr: Path, tmp_path: Path) -> None:
    file = vindr / "annotations/annotations_train.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if not ("R3" in line and "No" in line)))
    summary = convert_csv_boxes(vindr, tmp_path / "out", readers="R3")[0]
    assert summary.images == 1
    assert [(each.description, each.reason) for each in summary.skipped] == [
        ("2 images", "the chosen reader did not review them")
    ]


def test_boxes_shrink_with_their_images(vindr: Path, tmp_path: Path) -> None:
    card = convert("csv-boxes", vindr, tmp_path / "out", dicom={"longest_side": 48, "salt": "s"})
    assert card.splits[0].images == 3
    record = load(tmp_path / "out/test.json")["images"][0]
    assert (record["height"], record["width"], record["spacing"]) == (40, 48, [0.278, 0.278])
    assert boxes(tmp_path / "out/test.json") == [("7", 5, 20, 15, 15, None)]
    with pytest.raises(DataError, match=r"option dicom\.values"):
        convert("csv-boxes", vindr, tmp_path / "other", dicom={"values": "hu"})


def test_rsna_columns_on_ordinary_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("p1.png", "p2.png", "extra.png"):
        image(folder / "stage_2" / name)
    text(folder / "labels.csv", "patientId,x,y,width,height,Target\np1,90,60,30,40,1\np2,,,,,0\n")
    (summary,) = convert_csv_boxes(
        folder,
        tmp_path / "out",
        tables={"train": "labels.csv"},
        columns={"image": "patientId", "class": "Target", "x_min": "x", "y_min": "y",
                 "width": "width", "height": "height", "group": "patientId"},
        classes={"1": "opacity"},
        empty="0",
    )  # fmt: skip
    assert summary.objects == {"opacity": 1}
    # clipped to the image of 64 x 96
    assert boxes(tmp_path / "out/train.json") == [("1", 90, 60, 6, 4, None)]
    content = load(tmp_path / "out/train.json")
    assert [each["file_name"] for each in content["images"]] == [
        "stage_2/p1.png",
        "stage_2/p2.png",
    ]
    assert content["info"]["images_root"] == folder.as_posix()
    expected = DicomOptions().hash_identity("group", "p1")
    assert content["images"][0]["group"] == expected


def test_boxes_outside_are_listed(tmp_path: Path) -> None:
    folder = images(tmp_path / "in", "a,x,200,0,220,9\nb.png,x,5,5,5,9\nb.png,x,-5,5,7,9\n")
    (summary,) = convert_csv_boxes(folder, tmp_path / "out", copy_images=True)
    assert [each.description for each in summary.skipped] == [
        "x (line 2), corners (200.0, 0.0, 220.0, 9.0)",
        "x (line 3), corners (5.0, 5.0, 5.0, 9.0)",
    ]
    assert boxes(tmp_path / "out/train.json") == [("b", 0, 5, 7, 4, None)]
    assert (tmp_path / "out/images/train/a.png").is_file()


def test_unread_images_are_counted(vindr: Path, tmp_path: Path) -> None:
    vindr_cxr.xray(vindr / "test/0123.dicom", 9)
    summary = convert_csv_boxes(vindr, tmp_path / "out")[1]
    assert summary.images == 2
    assert [(each.description, each.reason) for each in summary.skipped] == [
        ("1 image", "no row of the table refers to them")
    ]


@pytest.mark.parametrize(
    ("rows", "options", "part"),
    [
        (
            "a,x,1,2,3,4\nzz,x,1,2,3,4\n",
            {},
            r"rows for 1 image outside .*, the first 'zz'",
        ),
        ("a,x,1,2,3,4\n", {"classes": ("y",)}, r"csv:2 has a box of class 'x'; the classes"),
        ("a,No finding,,,,\n", {}, "no row has a box; set the option classes"),
        ("a,x,1,2,3,4\n", {"val_fraction": 1.0}, "val_fraction is 1.0; it must be at least 0"),
        ("a,x,1,2,3,4\n", {"val_fraction": 1e-9}, "seed 0 leave a split empty"),
        (
            "a,x,1,2,3,4\n",
            {"tables": {"trian": "train.csv"}},
            "split 'trian'; allowed: train",
        ),
        ("a,x,1,2,3,4\n", {"tables": {"train": "t.csv"}}, r"t\.csv is missing"),
        ("../c,x,1,2,3,4\n", {}, r"rows for 1 image outside .*, the first '\.\./c'"),
        ("a,x,1,2,3,\n", {}, r"train\.csv:2: a 'x' has the box .*y_max=''; a box needs four"),
    ],
)
def test_mistakes(tmp_path: Path, rows: str, options: dict[str, Any], part: str) -> None:
    folder = images(tmp_path / "in", rows)
    with pytest.raises(DataError, match=part):
        convert_csv_boxes(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_images_that_are_not_clear(tmp_path: Path) -> None:
    folder = images(tmp_path / "in", "a,x,1,2,3,4\n", ("a.png", "a.jpg"))
    with pytest.raises(DataError, match=r"names 'a', which may be .*a\.jpg or .*a\.png; keep"):
        convert_csv_boxes(folder, tmp_path / "out")
    (folder / "a.jpg").unlink()
    vindr_cxr.xray(folder / "b.dicom", 0)
    text(folder / "train.csv", HEADER + "a,x,1,2,3,4\nb,x,1,2,3,4\n")
    with pytest.raises(DataError, match=r"b\.dicom is a DICOM file, .*a\.png is not; convert"):
        convert_csv_boxes(folder, tmp_path / "out")
    (folder / "train.csv").unlink()
    with pytest.raises(DataError, match=r"no table \(none of annotations/annotations_train\.csv"):
        convert_csv_boxes(folder, tmp_path / "out")


def test_a_few_invalid_rows_are_skipped_and_many_are_not(tmp_path: Path) -> None:
    folder = images(tmp_path / "in", "a,x,1,2,3,4\na,x,1,2,,4\nb,,1,2,3,4\n")
    (summary,) = convert_csv_boxes(folder, tmp_path / "out")
    assert (summary.images, summary.objects) == (2, {"x": 1})
    assert [(each.file, each.description) for each in summary.skipped] == [
        ("train.csv", "x (line 3)"),
        ("train.csv", "line 4"),
    ]
    assert summary.warnings == (f"2 invalid objects are skipped: {summary.skipped[0].reason}; ...",)
    text(folder / "train.csv", HEADER + "a,x,1,2,3,4\n" + "b,x,1,2,,4\n" * 11)
    with pytest.raises(DataError, match=r"csv:3: .*\(11 of 12 objects of train are invalid"):
        convert_csv_boxes(folder, tmp_path / "many")


def test_invalid_rows_of_other_readers_do_not_count(tmp_path: Path) -> None:
    image(tmp_path / "in/a.png")
    header = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
    text(tmp_path / "in/train.csv", header + "a,R1,x,1,2,3,4\na,R2,x,1,,3,4\n")
    (train,) = convert_csv_boxes(tmp_path / "in", tmp_path / "out", readers="R1")
    assert train.skipped == ()
    (train,) = convert_csv_boxes(tmp_path / "in", tmp_path / "all")
    assert [each.description for each in train.skipped] == ["x (line 3)"]


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        ("images/a.png", "a.png"),
        ("a.png", "images/a.png"),
        ("C:\\data\\images\\a.png", "images/a.png"),
        ("../uploads/4/a.png", "images/a.png"),
        ("/home/me/set/a", "train/deep/a.png"),
        ("train/images/a.png", "train/a.png"),
        ("training/a.png", "train/a.png"),
        ("images/a.png", "images/a.png"),
    ],
)
def test_cells_with_other_folders_than_the_image(cell: str, path: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in (path, "train/b.png"):
        image(folder / name)
    text(folder / "train.csv", f"{HEADER}{cell},x,1,2,3,4\n")
    if not path.startswith("train/"):
        (folder / "train/b.png").unlink()
        (folder / "train").rmdir()
    (summary,) = convert_csv_boxes(folder, tmp_path / "out")
    assert [each["file_name"] for each in load(tmp_path / "out/train.json")["images"]] == [path]
    is_shortened = cell not in (path, Path(path).name)
    warning = (
        f"1 recorded path is not in {folder}; the end of the path is used: {cell!r} is read as "
        f"{path!r}"
    )
    assert summary.warnings == ((warning,) if is_shortened else ())


def test_folders_in_cells_distinguish_images_of_one_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("p1/a.png", "p2/a.png", "p2/b.png"):
        image(folder / name)
    text(folder / "train.csv", HEADER + "data/p2/a,x,1,2,3,4\np1/a.png,y,1,2,3,4\nb,x,1,2,3,4\n")
    (summary,) = convert_csv_boxes(folder, tmp_path / "out")
    names = [each["file_name"] for each in load(tmp_path / "out/train.json")["images"]]
    assert names == ["p2/a.png", "p1/a.png", "p2/b.png"]
    assert len(summary.warnings) == 1
    text(folder / "train.csv", HEADER + "p3/a.png,x,1,2,3,4\n")
    with pytest.raises(DataError, match=r"names 'p3/a\.png', which may be .*p1.* or .*p2.*; kee"):
        convert_csv_boxes(folder, tmp_path / "other")


def test_rows_that_name_one_image_in_two_ways_are_joined(tmp_path: Path) -> None:
    rows = (
        "a.png,x,1,2,3,4\nimages/a.png,x,5,5,7,9\n..\\a,x,1,2,,4\nb,x,2,2,4,4\n./a.png,x,6,6,8,9\n"
    )
    folder = images(tmp_path / "in", rows)
    (summary,) = convert_csv_boxes(folder, tmp_path / "out")
    assert (summary.images, summary.objects, len(summary.skipped)) == (2, {"x": 4}, 1)
    assert [each[:3] for each in boxes(tmp_path / "out/train.json")] == [
        *(("a", 1, 2), ("a", 5, 5), ("a", 6, 6), ("b", 2, 2)),
    ]
    text(folder / "train.csv", f"{HEADER}p1/a.png,x,1,2,3,4\np2/a.png,x,1,2,3,4\n")
    with pytest.raises(DataError, match=r"'p1/a\.png' and 'p2/a\.png', but only one such image"):
        convert_csv_boxes(folder, tmp_path / "folders")
    text(folder / "train.csv", f"{HEADER}a.png,x,1,2,3,4\na.jpg,x,1,2,3,4\n")
    with pytest.raises(DataError, match=r"'a\.png' and 'a\.jpg', but only one such image"):
        convert_csv_boxes(folder, tmp_path / "suffixes")
    header = HEADER.replace("\n", ",group\n")
    text(folder / "train.csv", f"{header}a,x,1,2,3,4,p\na.png,x,1,2,3,4,q\n")
    with pytest.raises(DataError, match=r"'a' and 'a\.png', which are both .* groups 'p' and 'q'"):
        convert_csv_boxes(folder, tmp_path / "groups", columns={"group": "group"})


def test_the_split_in_a_cell_is_not_ignored(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "train/a.png")
    text(folder / "train.csv", f"{HEADER}val2017/a.png,x,1,2,3,4\n")
    with pytest.raises(
        DataError, match=r"'val2017/a\.png', but .*path lacks the name of the split"
    ):
        convert_csv_boxes(folder, tmp_path / "out")


def test_folders_in_cells_of_dicom_files(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(2):
        (folder / f"p{number}").mkdir(parents=True)
        vindr_cxr.xray(folder / f"p{number}/a.dicom", number)
    text(folder / "train.csv", HEADER + "x/p0/a.dicom,x,1,2,3,4\n..\\p1\\a,x,1,2,3,4\n")
    (summary,) = convert_csv_boxes(folder, tmp_path / "out")
    assert summary.objects == {"x": 2}
    names = [each["file_name"] for each in load(tmp_path / "out/train.json")["images"]]
    assert names == ["images/train/a.png", "images/train/a_2.png"]


def test_held_out_groups_stay_together(tmp_path: Path) -> None:
    rows = "".join(f"p{i},c{i % 20},x,1,2,3,4\n" for i in range(100))
    for i in range(100):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / f"in/p{i}.png")
    text(tmp_path / "in/train.csv", HEADER.replace("image_id", "image_id,case") + rows)
    options = {"columns": {"group": "case"}, "val_fraction": 0.3}
    for out in ("one", "two"):
        convert_csv_boxes(tmp_path / "in", tmp_path / out, **options)
    assert (tmp_path / "one/val.json").read_bytes() == (tmp_path / "two/val.json").read_bytes()
    groups = [
        {each["group"] for each in load(tmp_path / "one" / f"{split}.json")["images"]}
        for split in ("train", "val")
    ]
    assert len(groups[0] | groups[1]) == 20
    assert not groups[0] & groups[1]
    assert 2 <= len(groups[1]) <= 12


def test_the_catalog_entry_is_what_the_paper_says() -> None:
    entry = load_datasets()["vindr_cxr"]
    assert len(entry.options["classes"]) == 22
    assert not entry.verified


def test_relative_coordinates(tmp_path: Path) -> None:
    source = images(tmp_path / "in", "a,x,0.25,0.5,0.75,1\nb,x,0,0.1,0.5,0.5\nb,x,5,5,9,9\n")
    with Image.open(source / "a.png") as stored:
        width, height = stored.size
    with pytest.raises(
        DataError, match=r"train\.csv: 2 of 3 boxes .* set the option relative=true"
    ):
        convert_csv_boxes(source, tmp_path / "out")
    (summary,) = convert_csv_boxes(source, tmp_path / "out", relative=True)
    assert boxes(tmp_path / "out/train.json") == [
        ("a", 0.25 * width, 0.5 * height, 0.5 * width, 0.5 * height, None),
        ("b", 0, pytest.approx(0.1 * height), 0.5 * width, pytest.approx(0.4 * height), None),
    ]
    # The box in pixels is outside the image if its numbers are fractions.
    assert [each.reason for each in summary.skipped] == ["its box has no area inside the image"]


def test_corners_in_the_columns_of_sizes(tmp_path: Path) -> None:
    # The images are 96 x 64 (width x height).
    source = images(tmp_path / "in", "a,x,40,30,80,60\nb,x,50,30,90,60\nb,x,5,5,9,9\n")
    columns = {"width": "x_max", "height": "y_max"}
    (summary,) = convert_csv_boxes(source, tmp_path / "sizes", columns=columns)
    (warning,) = summary.warnings
    assert warning.startswith("2 of 3 boxes would end outside the image")
    (summary,) = convert_csv_boxes(source, tmp_path / "corners")
    assert summary.warnings == ()
    assert boxes(tmp_path / "corners/train.json")[0] == ("a", 40, 30, 40, 30, None)


USUAL = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    ("files", "source", "splits"),
    [
        ({"train/_annotations.csv": "train/", "valid/_annotations.csv": "valid/"}, "", "train val"),
        ({"validation.csv": "", "training.csv": "other/"}, "", "train val"),
        ({"labels.csv": ""}, "", "train"),
        ({"Train/boxes.csv": "Train/", "valid/table.csv": "valid/"}, "", "train val"),
        ({"labels.csv": "train/", "val/labels.csv": "val/"}, "", "train val"),
        ({"labels.csv": "", "others.csv": ""}, "labels.csv", "train"),
        ({"valid.csv": ""}, "valid.csv", "val"),
    ],
)
def test_tables_in_usual_places(
    files: dict[str, str], source: str, splits: str, tmp_path: Path
) -> None:
    for number, (name, folder) in enumerate(files.items()):
        image(tmp_path / "in" / folder / f"i{number}.png", seed=number)
        text(tmp_path / "in" / name, f"{USUAL}i{number}.png,96,64,cat,10,20,40,60\n")
    card = convert("csv-boxes", tmp_path / "in" / source, tmp_path / "out")
    assert {split.split: split.objects["cat"] for split in card.splits} == dict.fromkeys(
        splits.split(), 1
    )


def test_a_table_as_source_excludes_the_option(tmp_path: Path) -> None:
    text(tmp_path / "in/train.csv", f"{USUAL}a.png,96,64,cat,10,20,40,60\n")
    with pytest.raises(DataError, match="is a single table, so tables cannot name others"):
        convert("csv-boxes", tmp_path / "in/train.csv", tmp_path / "out", tables={"val": "b.csv"})


def test_two_tables_of_one_split_are_named(tmp_path: Path) -> None:
    for name in ("train/a.csv", "train/b.csv"):
        text(tmp_path / "in" / name, f"{USUAL}a.png,96,64,cat,10,20,40,60\n")
    message = r"a\.csv and .*b\.csv are both in .* split train; name one table per split"
    with pytest.raises(DataError, match=message):
        convert("csv-boxes", tmp_path / "in", tmp_path / "out")


def test_the_size_of_the_image_in_a_table_is_compared(tmp_path: Path) -> None:
    image(tmp_path / "in/a.png")  # 96 x 64 (width x height)
    file = tmp_path / "in/train.csv"
    text(file, f"{USUAL}a.png,960,640,cat,10,20,40,60\n")
    with pytest.raises(DataError) as error:
        convert_csv_boxes(tmp_path / "in", tmp_path / "out")
    assert str(error.value) == (
        f"{file} describes a.png with the size (640, 960) (height, width), but "
        f"{tmp_path / 'in/a.png'} has (64, 96); its boxes would be misplaced: put the original "
        "image there"
    )
    # The columns may also be the width and height of the box.
    text(file, f"{USUAL}a.png,30,40,cat,10,20,40,60\na.png,,,cat,10,20,41,60\n")
    (summary,) = convert_csv_boxes(tmp_path / "in", tmp_path / "out")
    assert summary.objects == {"cat": 2}


@pytest.mark.parametrize("column", ["IsGroupOf", "iscrowd"])
def test_boxes_around_groups_are_crowds(tmp_path: Path, column: str) -> None:
    folder = images(tmp_path / "in", "")
    rows = "a,x,1,2,3,4,1\na,x,5,6,9,9,0\nb,x,1,2,3,4,True\nb,x,1,2,5,5,-1\n"
    text(folder / "train.csv", f"image,class,xmin,ymin,xmax,ymax,{column}\n{rows}")
    convert_csv_boxes(folder, tmp_path / "out")
    annotations = load(tmp_path / "out/train.json")["annotations"]
    assert [annotation["iscrowd"] for annotation in annotations] == [1, 0, 1, 0]
