from pathlib import Path

import pytest

from data_tools.catalog import convert
from data_tools.converters.voc import convert_voc
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import image, text

BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
XML = f"<annotation><object><name>cat</name>{BOX}</object></annotation>"


@pytest.mark.parametrize(
    ("samples", "counts"),
    [
        # Pairs of image and XML file.
        ([("images/a.jpg", "annotations/a.xml")], {"train": 1}),
        ([("JPEGImages/a.jpg", "Annotations/a.xml")], {"train": 1}),
        ([("images/a.jpg", "annotations/xmls/a.xml")], {"train": 1}),
        ([("a.jpg", "a.xml"), ("b.png", "b.XML")], {"train": 2}),
        ([("train/a.jpg", "train/a.xml"), ("valid/b.jpg", "valid/b.xml")], {"train": 1, "val": 1}),
        (
            [("Training/images/a.jpg", "Training/annotations/a.xml"), ("test/b.png", "test/b.xml")],
            {"train": 1, "test": 1},
        ),
        (
            [
                ("images/train/a.jpg", "annotations/train/a.xml"),
                ("images/val/a.jpg", "annotations/val/a.xml"),
            ],
            {"train": 1, "val": 1},
        ),
    ],
)
def test_usual_folders(
    samples: list[tuple[str, str]], counts: dict[str, int], tmp_path: Path
) -> None:
    for image_name, xml_name in samples:
        image(tmp_path / "in" / image_name)
        text(tmp_path / "in" / xml_name, XML)
    card = convert("voc", tmp_path / "in", tmp_path / "out")
    assert {split.split: split.objects["cat"] for split in card.splits} == counts
    assert card.num_skipped == 0


def test_images_without_xml_file_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"in/images/{name}.jpg")
    text(tmp_path / "in/annotations/a.xml", XML)
    (train,) = convert_voc(tmp_path / "in", tmp_path / "out")
    (skipped,) = train.skipped
    assert (skipped.description, skipped.reason) == ("1 image", "no XML file describes them")


def test_an_xml_file_without_image_is_named(tmp_path: Path) -> None:
    image(tmp_path / "in/images/a.jpg")
    text(tmp_path / "in/annotations/b.xml", XML)
    with pytest.raises(DataError, match=r"annotations lists 'b', but .*images has no such image"):
        convert_voc(tmp_path / "in", tmp_path / "out")


def test_the_raccoon_sample(shared_data: Path, tmp_path: Path) -> None:
    (train,) = convert_voc(shared_data / "raccoon", tmp_path / "out")
    assert (train.split, train.images) == ("train", 200)
    num_objects = sum(
        file.read_text(encoding="utf-8").count("<object>")
        for file in (shared_data / "raccoon/annotations").glob("*.xml")
    )
    assert train.objects == {"raccoon": num_objects - len(train.skipped)}


@pytest.mark.parametrize(
    ("lists", "counts", "warning"),
    [
        ({"train": "a", "valid": "b"}, {"train": 1, "val": 1}, ""),
        ({"training": "a", "validation": "b"}, {"train": 1, "val": 1}, ""),
        ({"train": "a", "trainval": "a\nb"}, {"train": 1}, ""),
        ({"trainval": "a", "test": "b"}, {"train": 1, "test": 1}, "trainval.txt is read as train"),
    ],
)
def test_other_names_of_lists(
    lists: dict[str, str], counts: dict[str, int], warning: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"in/JPEGImages/{name}.jpg")
        text(tmp_path / f"in/Annotations/{name}.xml", XML)
        text(tmp_path / f"in/Annotations/{name}.xml.txt", "notes")
    for name, content in lists.items():
        text(tmp_path / f"in/ImageSets/Main/{name}.txt", content)
    splits = convert_voc(tmp_path / "in", tmp_path / "out")
    assert {split.split: split.objects["cat"] for split in splits} == counts
    assert "".join(splits[0].warnings).startswith(warning)
    assert len(splits[0].warnings) == bool(warning)


def test_one_split_with_relative_boxes(tmp_path: Path) -> None:
    box = "<bndbox><xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.9</xmax><ymax>0.8</ymax></bndbox>"
    relative = XML.replace(BOX, box)
    for number in range(10):
        image(tmp_path / f"in/train/a{number}.jpg")
        text(tmp_path / f"in/train/a{number}.xml", XML)
    image(tmp_path / "in/valid/b.jpg")
    text(tmp_path / "in/valid/b.xml", relative)
    with pytest.raises(DataError, match=r"in, val: 1 of 1 box has no coordinate outside 0\.\.1"):
        convert_voc(tmp_path / "in", tmp_path / "out")
