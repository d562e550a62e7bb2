"""Images that no label is about are counted, not dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.catalog import convert, prepare
from data_tools.writing.data_card import DataCard
from tests.support.tiny_sources import bdd100k, cityscapes, image, kitti, text


def left_out(card: DataCard) -> list[tuple[str, str, str, str]]:
    rows = [(split.split, each) for split in card.splits for each in split.skipped]
    return [
        (s, each.file, each.description, each.reason)
        for s, each in rows
        if "image" in each.description
    ]


def test_cityscapes(tmp_path: Path) -> None:
    source = cityscapes.write(tmp_path / "in")
    image(source / "leftImg8bit/val/ulm/ulm_000000_000001_leftImg8bit.png", cityscapes.SIZE)
    card = prepare("cityscapes", source, tmp_path / "out")
    assert left_out(card) == [("val", "val", "1 image", "they have no gtFine polygons")]


def test_bdd100k(tmp_path: Path) -> None:
    source = bdd100k.write(tmp_path / "in")
    for name in ("x.jpg", "y.jpg"):
        image(source / "images/100k/train" / name, bdd100k.SIZE)
    card = prepare("bdd100k", source, tmp_path / "out")
    assert left_out(card) == [("train", "train", "2 images", "no frame is about them")]


def test_one_folder_of_all_splits(tmp_path: Path) -> None:
    source = bdd100k.write(tmp_path / "in")
    images = source / "all"
    images.mkdir()
    for file in list((source / "images/100k").rglob("*.jpg")):
        file.rename(images / file.name)
    labels = ["labels/det_20/det_{split}.json"]
    card = convert("scalabel", source, tmp_path / "out", images="all", labels=labels)
    assert [split.images for split in card.splits] == [2, 1]
    assert left_out(card) == []
    image(images / "x.jpg", bdd100k.SIZE)
    card = convert("scalabel", source, tmp_path / "more", images="all", labels=labels)
    assert left_out(card) == [("val", "all", "1 image", "no frame is about them")]


@pytest.mark.parametrize("suffix", ["", ".png"])
def test_kitti_and_names_with_a_suffix(suffix: str, tmp_path: Path) -> None:
    source = kitti.write(tmp_path / "in")
    text(source / "ImageSets/train.txt", f"000000{suffix}\n")
    card = prepare("kitti", source, tmp_path / "out")
    assert [split.images for split in card.splits] == [1, 1]
    assert left_out(card) == [("val", "image_2", "1 image", "no list names them")]


def test_labelme(tmp_path: Path) -> None:
    shape = {"label": "car", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}
    for name in ("a", "b"):
        image(tmp_path / f"in/{name}.png")
    text(tmp_path / "in/a.json", json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    card = convert("labelme", tmp_path / "in", tmp_path / "out")
    assert left_out(card) == [("train", "in", "1 image", "no JSON file describes them")]


def test_voc(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"in/JPEGImages/{name}.png")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    xml = f"<annotation><object><name>car</name>{box}</object></annotation>"
    text(tmp_path / "in/Annotations/a.xml", xml)
    text(tmp_path / "in/ImageSets/Main/train.txt", "a.png\n")
    card = convert("voc", tmp_path / "in", tmp_path / "out")
    assert left_out(card) == [("train", "JPEGImages", "1 image", "no list names them")]
