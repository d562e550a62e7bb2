"""Hidden and system files in every folder of a source do not change its conversion."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from data_tools.catalog import convert, load_datasets, prepare
from data_tools.writing.data_card import DataCard
from tests.support.tiny_sources import image, text

RESOURCE_FORK = b"\x00\x05\x16\x07" + bytes(60)
"""Start of the files `._NAME` that macOS writes next to each file on other file systems."""


def litter(source: Path) -> None:
    """Add the files that macOS, Windows, Jupyter and a NAS leave in every folder."""
    files = [path for path in source.rglob("*") if path.is_file()]
    for file in files:
        file.with_name(f"._{file.name}").write_bytes(RESOURCE_FORK)
        (file.parent / "Thumbs.db").write_bytes(RESOURCE_FORK)
        checkpoint = file.parent / ".ipynb_checkpoints" / f"{file.stem}-checkpoint{file.suffix}"
        checkpoint.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, checkpoint)
        for folder in ("@eaDir", "__MACOSX"):
            copy = file.parent / folder / file.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)


def read_output(folder: Path, card: DataCard) -> tuple[dict[str, str], list[int], list[int]]:
    files = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.json")}
    return files, [split.images for split in card.splits], [len(s.skipped) for s in card.splits]


@pytest.mark.parametrize(
    "name", [name for name, dataset in load_datasets().items() if dataset.by_hand]
)
def test_known_datasets(name: str, tmp_path: Path) -> None:
    tiny = import_module(f"tests.support.tiny_sources.{name}")
    source = tmp_path / "in"
    source.mkdir()
    written = tiny.write(source)
    options = getattr(tiny, "OPTIONS", {})
    clean = read_output(tmp_path / "a", prepare(name, written, tmp_path / "a", **options))
    litter(source)
    card = prepare(name, written, tmp_path / "b", **options)
    files, images, num_skipped = read_output(tmp_path / "b", card)
    assert (files, images) == clean[:2]
    # A folder of masks may contain only masks, so that the system files in it are listed.
    assert num_skipped == clean[2] or all("system" in s.reason for s in card.splits[0].skipped)


def write_yolo(source: Path) -> None:
    for split in ("train", "val"):
        image(source / f"images/{split}/{split}.png")
        text(source / f"labels/{split}/{split}.txt", "0 0.5 0.5 0.5 0.5\n")
    text(source / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")


def write_labelme(source: Path) -> None:
    shape = {"label": "car", "points": [[1, 2], [9, 8]], "shape_type": "rectangle"}
    image(source / "a.png")
    text(source / "a.json", json.dumps({"shapes": [shape], "imagePath": "a.png"}))


def write_image_folders(source: Path) -> None:
    for name in ("cat", "dog"):
        image(source / f"train/{name}/{name}.png")


def write_coco(source: Path) -> None:
    image(source / "photos/a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 8, 6]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    text(source / "annotations/train.json", json.dumps(content))


def write_csv(source: Path) -> None:
    image(source / "train/deep/a.png")
    text(source / "train.csv", "image_id,class_name,x_min,y_min,x_max,y_max\na.png,cat,1,2,9,8\n")


@pytest.mark.parametrize(
    ("format_name", "write"),
    [
        ("yolo", write_yolo),
        ("labelme", write_labelme),
        ("image-folders", write_image_folders),
        ("coco", write_coco),
        ("csv-boxes", write_csv),
    ],
)
def test_formats(format_name: str, write: object, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    assert callable(write)
    write(source)
    clean = read_output(tmp_path / "a", convert(format_name, source, tmp_path / "a"))
    litter(source)
    assert read_output(tmp_path / "b", convert(format_name, source, tmp_path / "b")) == clean
