import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.converters.voc import convert_voc
from data_tools.converters.yolo import convert_yolo
from data_tools.exporters.export import export_coco
from data_tools.exporters.voc import export_voc
from data_tools.reading.coco_splits import find_coco_splits
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError, ResnetTasksError


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def coco_file(folder: Path, annotations: list[dict[str, Any]], **image: Any) -> Path:
    """A `val.json` with one 40 x 30 (width x height) image, gapped ids and two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"id": 7, "file_name": "a.png", "height": 30, "width": 40} | image
    (folder / record["file_name"]).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(folder / record["file_name"])
    content = {
        "info": {"annotated": ["boxes", "masks"]},
        "images": [record],
        "categories": [{"id": 90, "name": "cat"}, {"id": 3, "name": "ant"}],
        "annotations": [
            {"id": n, "image_id": 7, "iscrowd": 0, "area": 1, **each}
            for n, each in enumerate(annotations, start=1)
        ],
    }
    (folder / "val.json").write_text(json.dumps(content))
    return folder / "val.json"


def by_name(coco: CocoFile) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Image's name without folders -> (class, box) of its objects, crowd objects left out."""
    names = coco.categories.names
    return {
        Path(record.file_name).name: [
            (names[each.category], each.bbox)
            for each in coco.annotations[record.id]
            if each.bbox is not None and not each.is_crowd
        ]
        for record in coco.images
    }


def test_yolo_lines_by_hand(tmp_path: Path) -> None:
    file = coco_file(
        tmp_path / "in",
        [
            {"category_id": 90, "bbox": [10, 15, 20, 7.5]},
            {"category_id": 3, "bbox": [-4, 0, 8, 3]},
            {"category_id": 3, "bbox": [1, 1, 8, 3], "iscrowd": 1},
            {"category_id": 3},
        ],
    )
    card = export_coco("yolo", file, tmp_path / "out")
    assert (tmp_path / "out/labels/val/a.txt").read_text() == (
        "1 0.5 0.625 0.5 0.25\n0 0.05 0.05 0.1 0.1\n"
    )
    assert (tmp_path / "out/data.yaml").read_text() == "val: images/val\nnc: 2\nnames: [ant, cat]\n"
    assert (tmp_path / "out/images/val/a.png").is_file()
    assert [(each.description, each.reason) for each in card.splits[0].skipped] == [
        ("ant (annotation 3)", "YOLO has no crowd objects"),
        ("ant (annotation 4)", "an image-level label has no box"),
    ]
    assert "| val | a.png | ant (annotation 3) | YOLO" in (
        (tmp_path / "out/data_card.md").read_text()
    )


def test_yolo_polygons_by_hand(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), dtype=np.bool_)
    mask[10:20, 10:20] = True
    mask[12:15, 12:15] = False
    mask[25, 30] = True
    flat = mask.T.ravel().astype(np.int8)
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    square = [8, 6, 20, 6, 20, 15, 8, 15]
    file = coco_file(
        tmp_path / "in",
        [
            {"category_id": 90, "bbox": [8, 6, 12, 9], "segmentation": [square]},
            {
                "category_id": 90,
                "bbox": [10, 10, 21, 16],
                "segmentation": {"size": [30, 40], "counts": np.diff(edges).tolist()},
            },
            {"category_id": 3, "bbox": [0, 0, 4, 3]},
        ],
    )
    card = export_coco("yolo", file, tmp_path / "out", shapes="polygons")
    first, second, third = (tmp_path / "out/labels/val/a.txt").read_text().splitlines()
    assert first == "1 0.2 0.2 0.5 0.2 0.5 0.5 0.2 0.5"
    assert third == "0 0 0 0.1 0 0.1 0.1 0 0.1"
    shares = np.array([float(word) for word in second.split()[1:]]).reshape(-1, 2)
    traced = decode_mask([(shares * (40, 30)).ravel().tolist()], 30, 40)
    assert (traced == mask).all()
    assert card.splits[0].changed == {
        "objects in several parts, joined into one outline": 1,
        "objects with holes, joined into one outline": 1,
        "objects without a mask, written as the rectangle of their box": 1,
    }
    assert "| val | objects with holes, joined into one outline | 1 |" in card.to_markdown()


@pytest.mark.parametrize("shapes", ["boxes", "polygons"])
def test_coco_to_yolo_and_back(shared_data: Path, tmp_path: Path, shapes: str) -> None:
    root = shared_data / "coco_tiny"
    file = root / "annotations/instances_val2017.json"
    options = {"shapes": shapes, "images": "link"}
    images_root = root / "val2017"
    card = export_coco("yolo", file, tmp_path / "yolo", images_root=images_root, **options)
    convert_yolo(tmp_path / "yolo", tmp_path / "coco")
    before = read_coco(file, images_root=images_root)
    after = read_coco(tmp_path / "coco/val.json")
    crowds = sum(each.is_crowd for found in before.annotations.values() for each in found)
    assert crowds > 0
    assert [each.reason for each in card.splits[0].skipped] == [
        "YOLO has no crowd objects"
    ] * crowds
    assert after.categories.names == before.categories.names
    assert after.find_missing_files() == ()
    old, new = by_name(before), by_name(after)
    assert old.keys() == new.keys()
    # Boxes of a polygon are drawn around it: those of the file differ from it now and then.
    tolerance = 0.01 if shapes == "boxes" else 1.0
    for name, boxes in old.items():
        assert [label for label, _ in boxes] == [label for label, _ in new[name]]
        for (_, box), (_, again) in zip(boxes, new[name], strict=True):
            assert again == pytest.approx(box, abs=tolerance)
    if shapes == "polygons":
        assert after.annotated == {"boxes", "masks"}
        for record in before.images[:25]:
            mine = next(r for r in after.images if Path(r.file_name).name == record.file_name)
            size = (record.height, record.width)
            kept = [each for each in before.annotations[record.id] if not each.is_crowd]
            for a, b in zip(kept, after.annotations[mine.id], strict=True):
                assert a.segmentation is not None
                assert b.segmentation is not None
                masks = (decode_mask(each, *size) for each in (a.segmentation, b.segmentation))
                # Points are kept to a hundredth of a pixel: a border pixel may change sides.
                assert int(np.logical_xor(*masks).sum()) <= max(3, 0.02 * a.area)


def test_random_boxes_to_yolo_and_back(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    height, width = 1237, 7919
    corners = random.uniform(0, (width, height, width, height), (200, 4))
    low, high = (
        np.minimum(corners[:, :2], corners[:, 2:]),
        np.maximum(corners[:, :2], corners[:, 2:]),
    )
    boxes = np.concatenate((low, high - low), axis=1).tolist()
    file = coco_file(tmp_path / "in", [{"category_id": 3, "bbox": box} for box in boxes])
    content = load(file)
    content["images"][0] |= {"height": height, "width": width}
    Image.fromarray(np.zeros((height, width), dtype=np.uint8)).save(tmp_path / "in/a.png")
    file.write_text(json.dumps(content))
    export_coco("yolo", file, tmp_path / "yolo")
    convert_yolo(tmp_path / "yolo", tmp_path / "coco")
    again = [a["bbox"] for a in load(tmp_path / "coco/val.json")["annotations"]]
    assert np.abs(np.array(again) - boxes).max() < 0.01


def test_voc_to_coco_to_voc_to_coco(shared_data: Path, tmp_path: Path) -> None:
    convert_voc(shared_data / "bccd", tmp_path / "coco")
    export_coco("voc", tmp_path / "coco", tmp_path / "voc", images="link")
    convert_voc(tmp_path / "voc", tmp_path / "again")
    for split in ("train", "val"):
        before, after = (
            load(tmp_path / f"coco/{split}.json"),
            load(tmp_path / f"again/{split}.json"),
        )
        for content in (before, after):
            content["info"].pop("images_root")
        assert before == after
    xml = (tmp_path / "voc/Annotations/BloodImage_00001.xml").read_text()
    assert "<filename>BloodImage_00001.jpg</filename>" in xml
    assert "<depth>3</depth>" in xml


def test_voc_by_hand(tmp_path: Path) -> None:
    square = [8, 6, 20, 6, 20, 15, 8, 15]
    annotations = [
        {"category_id": 90, "bbox": [8, 6, 12, 9.25], "segmentation": [square], "truncated": 0.4},
        {"category_id": 3, "bbox": [0, 0, 4, 3], "iscrowd": 1, "occluded": 1},
        {"category_id": 3},
    ]
    file = coco_file(tmp_path / "in", annotations)
    content = load(file)
    content["categories"][0]["name"] = "cat & <dog>"
    file.write_text(json.dumps(content))
    card = export_coco("voc", file, tmp_path / "out", one_based=True)
    xml = (tmp_path / "out/Annotations/a.xml").read_text()
    for part in (
        "<name>cat &amp; &lt;dog&gt;</name>",
        "<truncated>1</truncated>",
        "<xmin>9</xmin>",
        "<ymax>15.25</ymax>",
        "<difficult>1</difficult>\n    <occluded>1</occluded>",
    ):
        assert part in xml
    assert card.splits[0].changed == {"masks, of which only the boxes are kept": 1}
    assert card.num_skipped == 1
    (summary,) = convert_voc(tmp_path / "out", tmp_path / "again", one_based=True)
    assert summary.objects == {"ant": 1, "cat & <dog>": 1}
    boxes = [(a["bbox"], a["iscrowd"]) for a in load(tmp_path / "again/val.json")["annotations"]]
    assert boxes == [([8, 6, 12, 9.25], 0), ([0, 0, 4, 3], 1)]


def test_images_of_one_name_in_several_folders(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "in", [{"category_id": 3, "bbox": [1, 2, 8, 3]}])
    content = load(file)
    for image_id, name in ((8, "images/b/a.png"), (9, "images/b/a.jpg"), (10, "c.png")):
        content["images"].append({"id": image_id, "file_name": name, "height": 30, "width": 40})
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / name)
    file.write_text(json.dumps(content))
    export_coco("yolo", file, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out/images/val").iterdir())
    assert names == ["a_png.png", "c.png", "images_b_a_jpg.jpg", "images_b_a_png.png"]
    convert_yolo(tmp_path / "out", tmp_path / "again")
    counts = Counter(a["image_id"] for a in load(tmp_path / "again/val.json")["annotations"])
    assert counts == {1: 1}


def test_what_is_wrong_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "in", [{"category_id": 3, "bbox": [1, 2, 8, 3]}])
    with pytest.raises(ResnetTasksError, match="yolo"):
        export_coco("yool", file, tmp_path / "out")
    with pytest.raises(DataError, match=r"has no option 'shape'; .* did you mean 'shapes'"):
        export_coco("yolo", file, tmp_path / "out", shape="boxes")
    with pytest.raises(DataError, match=r"contains none of train\.json"):
        export_coco("yolo", tmp_path, tmp_path / "out")
    assert find_coco_splits(tmp_path / "annotations.json") == {
        "train": tmp_path / "annotations.json"
    }
    assert find_coco_splits(Path("x/instances_train2017.json")) == {
        "train": Path("x/instances_train2017.json")
    }
    (tmp_path / "in/a.png").unlink()
    with pytest.raises(DataError, match=r"the image .*a\.png is missing; .* \(images=none\)"):
        export_coco("yolo", file, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    export_coco("voc", file, tmp_path / "out", images="none")
    assert (tmp_path / "out/Annotations/a.xml").is_file()


def test_splits_must_agree(tmp_path: Path) -> None:
    file = coco_file(tmp_path / "in", [{"category_id": 3, "bbox": [1, 2, 8, 3]}])
    content = load(file)
    (tmp_path / "in/train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"a\.png is in two splits"):
        export_coco("voc", tmp_path / "in", tmp_path / "out")
    content["categories"][0]["name"] = "dog"
    (tmp_path / "in/train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="have different categories"):
        export_coco("yolo", tmp_path / "in", tmp_path / "out")
    content["categories"][0]["name"] = "line\nbreak"
    (tmp_path / "in/train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="cannot be stored in XML"):
        export_voc({"train": read_coco(tmp_path / "in/train.json")}, tmp_path / "voc")


def test_ids_that_are_texts_lead_nowhere(tmp_path: Path) -> None:
    """Where names without folders are alike, ids tell images apart."""
    file = coco_file(tmp_path / "in", [], file_name="b_a_png.png")
    content = load(file)
    for name in ("b/a.png", "a.png"):
        coco_file(tmp_path / "in", [], file_name=name)
    content["images"] = [
        {**content["images"][0], "id": f"/../../../{number}", "file_name": name}
        for number, name in enumerate(("b_a_png.png", "b/a.png", "a.png"))
    ]
    file.write_text(json.dumps(content))
    before = set(tmp_path.rglob("*"))
    export_coco("yolo", file, tmp_path / "out")
    written = set(tmp_path.rglob("*")) - before
    assert all(each.is_relative_to(tmp_path / "out") for each in written)
    assert sorted(each.name for each in (tmp_path / "out/images/val").iterdir()) == [
        "a_png.png",
        "b_a_png.png",
        "b_a_png_2.png",
    ]


def test_standard_coco_folders(tmp_path: Path) -> None:
    """Images in train2017 and val2017, which have the same names, next to the annotations."""
    for number, split in enumerate(("train", "val")):
        folder = tmp_path / f"coco/{split}2017"
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 10), (number, 0, 0)).save(folder / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 10, "width": 20}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [2, 3, 4, 5]}],
            "categories": [{"id": 5, "name": "cell"}],
        }
        file = tmp_path / f"coco/annotations/instances_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    card = export_coco("yolo", tmp_path / "coco", tmp_path / "out")
    assert [(split.split, split.images) for split in card.splits] == [("train", 1), ("val", 1)]
    for number, split in enumerate(("train", "val")):
        with Image.open(tmp_path / f"out/images/{split}/a.png") as exported:
            assert exported.getpixel((0, 0)) == (number, 0, 0)
    export_coco("yolo", file, tmp_path / "file")
    assert (tmp_path / "file/images/val/a.png").is_file()


@pytest.mark.parametrize("format_name", ["voc", "yolo"])
def test_names_that_no_file_can_have_are_missing(format_name: str, tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a" * 300, "height": 4, "width": 6}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "car"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"the image .*a{300} is missing"):
        export_coco(format_name, tmp_path / "train.json", tmp_path / "out")
