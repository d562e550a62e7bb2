import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError

ROAD_USERS = (CategorySpec("road", isthing=False), CategorySpec("car"))


def image(file: Path, size: tuple[int, int] = (6, 8)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(file)
    return file


def writer(folder: Path, **options: Any) -> CocoWriter:
    return CocoWriter(folder, "train", ROAD_USERS, annotated=("boxes", "semantic"), **options)


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def test_everything_written_is_read_back(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    coco = writer(out, images_root=source, license_name="MIT")
    image_id = coco.add_image(image(source / "a" / "x.png"), group="patient 7")
    mask = np.zeros((6, 8), dtype=np.bool_)
    mask[1:4, 2:7] = True
    coco.add_mask(image_id, "car", mask)
    coco.add_box(image_id, "car", (0, 0.5, 2, 1.25), iscrowd=True)
    ids = np.where(mask, 2, 1)
    ids[0] = (0, 255, 1, 1, 1, 1, 1, 1)
    coco.add_semantic(image_id, ids)
    coco.report.skip("x.xml", "car 3", "no area")
    summary = coco.write()

    content = load(out / "train.json")
    assert content["info"]["annotated"] == ["boxes", "semantic"]
    assert content["info"]["images_root"] == str(source)
    assert content["licenses"] == [{"id": 1, "name": "MIT"}]
    assert content["categories"] == [
        {"id": 1, "name": "road", "isthing": 0},
        {"id": 2, "name": "car", "isthing": 1},
    ]
    assert content["images"] == [
        {
            "id": 1,
            "file_name": "a/x.png",
            "height": 6,
            "width": 8,
            "group": "patient 7",
            "sem_seg_file_name": "semantic/train/x.png",
        }
    ]
    first, second = content["annotations"]
    assert (first["bbox"], first["area"], first["iscrowd"]) == ([2, 1, 5, 3], 15, 0)
    assert (second["bbox"], second["area"], second["iscrowd"]) == ([0, 0.5, 2, 1.25], 2.5, 1)
    assert "segmentation" not in second
    stored = cv2.imread(str(out / "semantic/train/x.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint8
    assert stored.tolist() == ids.tolist()
    assert summary.objects == {"road": 0, "car": 2}
    assert summary.pixels == {"road": 48 - 15 - 2, "car": 15}
    assert [(s.file, s.description, s.reason) for s in summary.skipped] == [
        ("x.xml", "car 3", "no area")
    ]

    read = read_coco(out / "train.json")
    assert read.problems == ()
    assert read.find_missing_files() == ()


def test_the_json_appears_only_when_complete(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path)
    coco.add_image(image(tmp_path / "x.png"))
    assert not (tmp_path / "out" / "train.json").exists()
    coco.write()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["train.json"]
    with pytest.raises(DataError, match=r"train\.json already exists"):
        writer(tmp_path / "out")


def test_copied_images_lie_beside_the_json(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    coco = writer(out, images_root=source, copy_images=True)
    original = image(source / "a" / "x.png")
    coco.add_image(original)
    coco.write()
    content = load(out / "train.json")
    assert "images_root" not in content["info"]
    (record,) = content["images"]
    assert record["file_name"] == "images/train/a/x.png"
    assert (out / record["file_name"]).read_bytes() == original.read_bytes()


def test_equal_names_in_two_folders_get_two_label_maps(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path)
    for folder, value in (("a", 1), ("b", 2)):
        image_id = coco.add_image(image(tmp_path / folder / "x.png"))
        coco.add_semantic(image_id, np.full((6, 8), value))
    coco.write()
    records = load(tmp_path / "out" / "train.json")["images"]
    maps = [read_label_map(tmp_path / "out" / record["sem_seg_file_name"]) for record in records]
    assert [int(ids[0, 0]) for ids in maps] == [1, 2]


def test_many_categories_take_sixteen_bits(tmp_path: Path) -> None:
    categories = [CategorySpec(f"c{n}") for n in range(300)]
    coco = CocoWriter(
        tmp_path / "out", "val", categories, annotated=("semantic",), images_root=tmp_path
    )
    image_id = coco.add_image(image(tmp_path / "x.png"))
    ids = np.full((6, 8), 300)
    ids[0, 0] = coco.void
    coco.add_semantic(image_id, ids)
    assert coco.void == 65535
    stored = cv2.imread(str(tmp_path / "out/semantic/val/x.png"), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert stored.tolist() == ids.tolist()


def test_wrong_contents_are_named(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path / "in")
    image_id = coco.add_image(image(tmp_path / "in" / "x.png"))
    with pytest.raises(DataError, match=r"x\.png is a 'bus'; the classes are road, car"):
        coco.add_box(image_id, "bus", (0, 0, 1, 1))
    with pytest.raises(DataError, match=r"car of x\.png has no area .*\(3, 3, 0, 2\)"):
        coco.add_box(image_id, "car", (3, 3, 0, 2))
    with pytest.raises(DataError, match="no area"):
        coco.add_mask(image_id, "car", np.zeros((6, 8), dtype=np.bool_))
    with pytest.raises(DataError, match=r"\(8, 6\) \(height, width\), but the image has \(6, 8\)"):
        coco.add_mask(image_id, "car", np.ones((8, 6), dtype=np.bool_))
    with pytest.raises(DataError, match=r"\(8, 6\) \(height, width\), but the image has \(6, 8\)"):
        coco.add_semantic(image_id, np.ones((8, 6), dtype=np.int64))
    with pytest.raises(DataError, match=r"holds \[3\]; allowed: 0 to 2, and 255"):
        coco.add_semantic(image_id, np.full((6, 8), 3))
    with pytest.raises(DataError, match="is not inside the images root"):
        coco.add_image(image(tmp_path / "elsewhere.png"))
    with pytest.raises(DataError, match="the classes include 'a' more than once"):
        CocoWriter(tmp_path, "val", [CategorySpec("a"), CategorySpec("a")], annotated=())
    assert coco.write().objects == {"road": 0, "car": 0}


def test_the_file_is_what_json_makes_of_its_content(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path)
    for name in ("ä.png", "b.png"):
        image_id = coco.add_image(image(tmp_path / name), group="p")
        coco.add_box(image_id, "car", (1, 2, 3.456, 2), attributes={"text": 'a "b" é'})
        coco.add_polygons(image_id, "road", [[0, 0, 5, 0, 5, 5.5]])
        coco.add_label(image_id, "car")
    summary = coco.write()
    text = (tmp_path / "out/train.json").read_text(encoding="utf-8")
    content = json.loads(text)
    assert text == json.dumps(content)
    assert list(content) == ["info", "licenses", "images", "annotations", "categories"]
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3, 4, 5, 6]
    assert list(content["annotations"][0])[:4] == ["id", "image_id", "category_id", "bbox"]
    assert summary.objects == {"road": 2, "car": 4}
    empty = writer(tmp_path / "none", images_root=tmp_path)
    empty.write()
    text = (tmp_path / "none/train.json").read_text()
    assert text == json.dumps(json.loads(text))


def test_annotations_take_no_memory_and_leave_nothing(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path)
    image_id = coco.add_image(image(tmp_path / "x.png"))
    coco.add_box(image_id, "car", (1, 2, 3, 2))
    tracemalloc.start()
    for number in range(20_000):
        coco.add_box(image_id, "car", (1, 2, 3, 2), attributes={"number": number})
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(kept, peak) < 400_000  # of 2,600,000 bytes of JSON
    assert list((tmp_path / "out").iterdir()) == []  # no name that could be left behind
    coco.write()
    assert len(load(tmp_path / "out/train.json")["annotations"]) == 20_001


def test_names_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"gr\xfcn.png")
    image(tmp_path / "x.png").rename(tmp_path / name)
    coco = writer(tmp_path / "out", images_root=tmp_path)
    with pytest.raises(DataError, match=r"gr\\udcfcn\.png' has a name that is not UTF-8"):
        coco.add_image(tmp_path / name)


def test_a_image_that_vanishes_is_told(tmp_path: Path) -> None:
    coco = writer(tmp_path / "out", images_root=tmp_path, copy_images=True)
    with pytest.raises(DataError, match=r"x\.png was removed during the conversion"):
        coco.add_image(tmp_path / "x.png", size=(6, 8))
