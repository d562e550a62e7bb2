"""Fixtures have the form of Kvasir-SEG (JPEG masks, kavsir_bboxes.json) and of ISIC 2018 task 1
(masks called NAME_segmentation.png), as their home pages describe them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import prepare
from data_tools.converters.binary_masks import (
    ImageMaskFolders,
    MaskRule,
    convert_binary_masks,
)
from data_tools.reading.mask_foreground import MaskReader
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError

FOLDERS = {"train": ImageMaskFolders("images", "masks")}


def pair(root: Path, name: str, mask: np.ndarray, suffix: str = ".png") -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", mask.shape[::-1]).save(root / f"images/{name}.jpg")
    Image.fromarray(mask.astype(np.uint8)).save(root / f"masks/{name}{suffix}")


def square(rows: slice, columns: slice, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size)
    mask[rows, columns] = 255
    return mask


def convert(source: Path, out: Path, **options: Any) -> tuple[SplitSummary, ...]:
    return convert_binary_masks(source, out, category="polyp", folders=FOLDERS, **options)


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_one_mask_is_one_object_and_a_label_map(tmp_path: Path) -> None:
    mask = square(slice(5, 25), slice(10, 30)) + square(slice(30, 38), slice(50, 60))
    pair(tmp_path / "in", "a", mask)
    pair(tmp_path / "in", "b", np.zeros((40, 60)))
    (summary,) = convert(tmp_path / "in", tmp_path / "out")
    assert (summary.images, summary.objects, summary.pixels) == (2, {"polyp": 1}, {"polyp": 480})
    coco = read_coco(tmp_path / "out/train.json")
    assert coco.annotated == {"boxes", "masks", "semantic"}
    assert coco.problems == ()
    (polyp,) = coco.annotations[1]
    assert polyp.bbox == (10, 5, 50, 33)
    assert polyp.segmentation is not None
    assert (decode_mask(polyp.segmentation, 40, 60) == (mask > 0)).all()
    stored = np.asarray(Image.open(tmp_path / "out/semantic/train/a.png"))
    assert (stored == (mask > 0)).all()
    assert coco.annotations[2] == ()


def test_components_and_specks(tmp_path: Path) -> None:
    mask = square(slice(5, 25), slice(10, 30)) + square(slice(30, 38), slice(50, 60))
    mask[0, 0] = 255
    pair(tmp_path / "in", "a", mask)
    (summary,) = convert(tmp_path / "in", tmp_path / "out", masks=MaskRule(objects="components"))
    assert summary.objects == {"polyp": 2}
    assert [each.description for each in summary.skipped] == ["polyp of 1 pixel"]
    assert summary.pixels == {"polyp": 481}


def test_masks_of_jpeg_are_cut_at_the_threshold(tmp_path: Path) -> None:
    gray = np.tile(np.arange(0, 240, 8, dtype=np.float64), (20, 1))
    pair(tmp_path / "in", "a", gray)
    file = tmp_path / "in/masks/a.png"
    assert (MaskReader(threshold=128, allow_lossy=True).read(file) == (gray >= 128)).all()
    assert (MaskReader(threshold=200, allow_lossy=True).read(file) == (gray >= 200)).all()
    clean = square(slice(5, 27), slice(13, 49))
    pair(tmp_path / "jpeg", "a", clean, ".jpg")
    stored = np.asarray(Image.open(tmp_path / "jpeg/masks/a.jpg"))
    assert set(np.unique(stored)) - {0, 255}
    mask = MaskReader(threshold=128, allow_lossy=True).read(tmp_path / "jpeg/masks/a.jpg")
    assert (mask == (clean > 0)).all()
    with pytest.raises(DataError, match=r"masks\.threshold is 0"):
        convert(tmp_path / "in", tmp_path / "out", masks=MaskRule(threshold=0))


def kvasir(root: Path, boxes: dict[str, Any]) -> Path:
    pair(root, "a", square(slice(5, 25), slice(10, 30)) + square(slice(30, 38), slice(50, 60)))
    (root / "kavsir_bboxes.json").write_text(json.dumps(boxes))
    return root


def box(*corners: float) -> dict[str, Any]:
    return {"label": "polyp", **dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))}


def test_boxes_of_the_publisher_are_the_objects(tmp_path: Path) -> None:
    boxes = [box(10, 5, 29, 24), box(48, 28, 60, 40), box(0, 0, 5, 5)]
    source = kvasir(tmp_path / "in", {"a": {"height": 40, "width": 60, "bbox": boxes}})
    (summary,) = convert(source, tmp_path / "out", masks=MaskRule(boxes="kavsir_bboxes.json"))
    found = [a["bbox"] for a in load(tmp_path / "out/train.json")["annotations"]]
    assert found == [[10, 5, 19, 19], [50, 30, 10, 8]]
    assert [each.reason for each in summary.skipped] == ["the mask has no pixel inside the box"]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ({}, "has no entry for the image a"),
        ({"a": {"height": 41, "width": 60, "bbox": []}}, r"the file of boxes has \(41, 60\)"),
        (
            {"a": {"height": 40, "width": 60, "bbox": [{}]}},
            "'a' should have height, width and bbox",
        ),
        ([], "must map the name of each image"),
    ],
)
def test_wrong_boxes_are_named(tmp_path: Path, boxes: Any, message: str) -> None:
    source = kvasir(tmp_path / "in", boxes)
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "out", masks=MaskRule(boxes="kavsir_bboxes.json"))


def test_splits_by_list_by_share_and_by_folder(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in range(10):
        pair(source, f"p{number}", square(slice(5, 25), slice(10, 30)))
    train, val = convert(source, tmp_path / "share", val_fraction=0.2)
    again = convert(source, tmp_path / "again", val_fraction=0.2)
    assert (train.images, val.images) == (8, 2)
    assert [s.images for s in again] == [8, 2]
    first, second = (load(tmp_path / f"{name}/val.json")["images"] for name in ("share", "again"))
    assert first == second
    (source / "train.txt").write_text("p1\np2.jpg\n")
    (source / "val.txt").write_text("p7\n")
    train, val = convert(source, tmp_path / "lists", val_fraction=0.2)
    assert (train.images, val.images) == (2, 1)
    (source / "val.txt").write_text("p77\n")
    with pytest.raises(DataError, match=r"val\.txt lists 1 name without an image, the first p77"):
        convert(source, tmp_path / "no")
    folders = {**FOLDERS, "test": ImageMaskFolders("other", "masks")}
    with pytest.raises(DataError, match="other is missing"):
        convert_binary_masks(source, tmp_path / "no", category="polyp", folders=folders)
    with pytest.raises(DataError, match="train is required, val and test are optional"):
        convert_binary_masks(source, tmp_path / "no", category="polyp", folders={})


def test_images_and_masks_must_agree(tmp_path: Path) -> None:
    source = tmp_path / "in"
    pair(source, "a", square(slice(5, 25), slice(10, 30)))
    Image.new("L", (61, 40)).save(source / "masks/a.png")
    with pytest.raises(DataError, match=r"has the size \(40, 60\) .* has \(40, 61\)"):
        convert(source, tmp_path / "out")
    (source / "masks/a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"the mask .*a\.png cannot be read"):
        convert(source, tmp_path / "out")
    (source / "masks/a.png").unlink()
    with pytest.raises(DataError, match=r"'a', but .*masks has no such image"):
        convert(source, tmp_path / "out")


def test_options_come_from_a_command_line(tmp_path: Path) -> None:
    source = kvasir(tmp_path / "in", {"a": {"height": 40, "width": 60, "bbox": []}})
    with pytest.raises(DataError, match=r"option masks\.objects of the format 'binary-masks'"):
        prepare("kvasir_seg", source, tmp_path / "out", masks={"objects": "blobs"})
    card = prepare("kvasir_seg", source, tmp_path / "out", val_fraction=0.0)
    assert card.splits[0].pixels == {"polyp": 480}
