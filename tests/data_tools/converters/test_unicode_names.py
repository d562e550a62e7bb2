"""Names that labels store in the Unicode form NFC and the file system in the form NFD."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from data_tools.catalog import convert
from tests.support.tiny_sources import image, text

NFC = "gr\u00f6\u00dfe \u00e9"
NFD = unicodedata.normalize("NFD", NFC)
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"


def write_voc(source: Path, stored: str, listed: str) -> None:
    image(source / f"JPEGImages/{stored}.png")
    xml = f"<annotation><object><name>cat</name>{BOX}</object></annotation>"
    text(source / f"Annotations/{listed}.xml", xml)
    text(source / "ImageSets/Main/train.txt", f"{listed}\n")


def write_yolo(source: Path, stored: str, listed: str) -> None:
    image(source / f"images/{stored}.png", size=(100, 100))
    text(source / f"labels/{listed}.txt", "0 0.05 0.05 0.08 0.06\n")
    text(source / "data.yaml", "train: images\nnames: [cat]\n")


def write_labelme(source: Path, stored: str, listed: str) -> None:
    image(source / f"{stored}.png")
    shape = {"label": "cat", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}
    text(source / "a.json", json.dumps({"shapes": [shape], "imagePath": f"{listed}.png"}))


def write_coco(source: Path, stored: str, listed: str) -> None:
    image(source / f"photos/{stored}.png")
    content = {
        "images": [{"id": 1, "file_name": f"{listed}.png", "height": 64, "width": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 6]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    text(source / "train.json", json.dumps(content))


def write_csv(source: Path, stored: str, listed: str) -> None:
    image(source / f"train/{stored}.png")
    header = "image_id,class_name,x_min,y_min,x_max,y_max"
    text(source / "train.csv", f"{header}\n{listed}.png,cat,1,2,9,8\n")


@pytest.mark.parametrize(("stored", "listed"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
@pytest.mark.parametrize(
    ("format_name", "write"),
    [
        ("voc", write_voc),
        ("yolo", write_yolo),
        ("labelme", write_labelme),
        ("coco", write_coco),
        ("csv-boxes", write_csv),
    ],
)
def test_both_forms_are_one_name(
    format_name: str, write: object, stored: str, listed: str, tmp_path: Path
) -> None:
    assert callable(write)
    write(tmp_path / "in", stored, listed)
    card = convert(format_name, tmp_path / "in", tmp_path / "out")
    assert card.splits[0].objects == {"cat": 1}
    assert card.num_skipped == 0
    content = json.loads((tmp_path / "out/train.json").read_text())
    (record,) = content["images"]
    # The file is named as it is stored, so that it is found by other programs.
    assert Path(record["file_name"]).name == f"{stored}.png"
    assert Path(content["info"]["images_root"], record["file_name"]).is_file()
