"""Tables are written field by field as nutonomy/nuscenes-devkit, docs/schema_nuimages.md says."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.catalog import convert
from data_tools.converters.nuimages import SURFACES
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import image, text

SIZE = (64, 96)
CATEGORIES = ("human.pedestrian.adult", "vehicle.car", "flat.driveable_surface", "vehicle.ego")
Tables = dict[str, list[dict[str, Any]]]


def area(y1: int, y2: int, x1: int, x2: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def packed(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """As nuImages stores it; read with `mask_decode` of the development kit's nuimages/utils."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(SIZE), "counts": base64.b64encode(rle["counts"]).decode()}


def tables() -> Tables:
    ego = {"ego_pose_token": "p", "calibrated_sensor_token": "s", "timestamp": 1, "next": ""}
    frame = {"token": "f", "sample_token": "m", "fileformat": "jpg", "width": 96, "height": 64}
    frame |= {"filename": "samples/CAM_FRONT/a.jpg", "is_key_frame": True, "prev": "", **ego}
    sweep = frame | {"token": "w", "is_key_frame": False, "filename": "sweeps/CAM_FRONT/b.jpg"}
    lidar = frame | {"token": "l", "fileformat": "pcd", "filename": "samples/LIDAR/c.pcd.bin"}
    return {
        "log": [
            {
                "token": "g",
                "logfile": "n003-2018-01-02-11-48-43+0800",
                "vehicle": "n003",
                "date_captured": "2018-01-02",
                "location": "singapore-onenorth",
            }
        ],
        "sample": [
            {
                "token": "m",
                "timestamp": 1,
                "log_token": "g",
                "key_camera_token": "f",
                "key_lidar_token": "l",
            }
        ],
        "sample_data": [sweep, frame, lidar],
        "category": [
            {"token": f"c{i}", "name": n, "description": ""} for i, n in enumerate(CATEGORIES)
        ],
        "attribute": [{"token": "a", "name": "vehicle.parked", "description": ""}],
        "object_ann": [
            {
                "token": "o1",
                "sample_data_token": "f",
                "category_token": "c0",
                "attribute_tokens": [],
                "bbox": [30, 20, 40, 50],
                "mask": packed(area(20, 50, 30, 40)),
            },
            {
                "token": "o2",
                "sample_data_token": "f",
                "category_token": "c1",
                "attribute_tokens": ["a"],
                "bbox": [10, 25, 60, 45],
                "mask": packed(area(25, 45, 10, 55)),
            },
        ],
        "surface_ann": [
            {
                "token": "u1",
                "sample_data_token": "f",
                "category_token": "c2",
                "mask": packed(area(40, 64, 0, 96)),
            },
            {
                "token": "u2",
                "sample_data_token": "f",
                "category_token": "c3",
                "mask": packed(area(60, 64, 0, 96)),
            },
        ],
    }


def write(folder: Path, content: Tables, split: str = "train") -> Path:
    name_of_image = "a.jpg" if split == "train" else f"{split}.jpg"
    image(folder / "samples/CAM_FRONT" / name_of_image, SIZE)
    for name, rows in content.items():
        written_rows = json.dumps(rows, indent=0).replace(
            "CAM_FRONT/a.jpg", f"CAM_FRONT/{name_of_image}"
        )
        text(folder / f"v1.0-{split}/{name}.json", written_rows)
    return folder


def written(out: Path) -> tuple[dict[str, Any], NDArray[Any]]:
    train = json.loads((out / "train.json").read_text())
    return train, np.asarray(Image.open(out / train["images"][0]["sem_seg_file_name"]))


def test_objects_surfaces_attributes_and_logs(tmp_path: Path) -> None:
    write(tmp_path / "in", tables(), "val")
    convert("nuimages", write(tmp_path / "in", tables()), tmp_path / "out")
    train, ids = written(tmp_path / "out")
    assert [(c["id"], c["name"], c["isthing"]) for c in train["categories"]] == [
        (1, "human.pedestrian.adult", 1),
        (2, "vehicle.car", 1),
        (3, "flat.driveable_surface", 0),
    ]
    (image,) = train["images"]
    assert image["group"] == "n003-2018-01-02-11-48-43+0800"
    person, car = train["annotations"]
    assert (person["category_id"], person["bbox"]) == (1, [30, 20, 10, 30])
    # The box is the annotated one, which may be larger than what is visible.
    assert (car["category_id"], car["bbox"], car["area"]) == (2, [10, 25, 50, 20], 20 * 45)
    assert car["attributes"] == {"vehicle": "parked"}
    mask = decode_mask(car["segmentation"], *SIZE)
    np.testing.assert_array_equal(mask, area(25, 45, 10, 55))
    expected = np.zeros(SIZE, np.int64)
    expected[40:] = 3
    expected[60:] = 255
    expected[25:45, 10:55] = 2
    expected[20:50, 30:40] = 1  # the smaller object is drawn over the larger one
    np.testing.assert_array_equal(ids, expected)
    assert read_coco(tmp_path / "out/train.json").problems == ()


def test_splits_share_the_categories_of_all_tables(tmp_path: Path) -> None:
    source = write(tmp_path / "in", tables())
    content = tables()
    content["category"].append({"token": "c4", "name": "animal", "description": ""})
    content["object_ann"][1]["category_token"] = "c4"
    card = convert("nuimages", write(source, content, "val"), tmp_path / "out")
    train, val = (json.loads((tmp_path / f"out/{s}.json").read_text()) for s in ("train", "val"))
    assert train["categories"] == val["categories"]
    assert [split.objects["animal"] for split in card.splits] == [0, 1]
    assert [annotation["category_id"] for annotation in val["annotations"]] == [1, 3]


def test_categories_are_merged_and_mini_is_train(tmp_path: Path) -> None:
    source = write(tmp_path / "in", tables(), "mini")
    card = convert("nuimages", source, tmp_path / "out", rename={"vehicle.car": "car"})
    assert "nuImages mini" in card.to_markdown()
    train, ids = written(tmp_path / "out")
    assert [c["name"] for c in train["categories"]] == ["car", "other", "flat.driveable_surface"]
    person, car = train["annotations"]
    assert (person["category_id"], person["iscrowd"]) == (2, 1)
    assert person["attributes"] == {"category": "human.pedestrian.adult"}
    assert (car["category_id"], car["iscrowd"]) == (1, 0)
    assert ids[30, 35] == 255
    with pytest.raises(DataError, match="rename has 'car'; the categories are human"):
        convert("nuimages", source, tmp_path / "x", rename={"car": "car"})


def test_a_category_can_be_renamed_to_other(tmp_path: Path) -> None:
    source = write(tmp_path / "in", tables(), "mini")
    convert("nuimages", source, tmp_path / "out", rename={"vehicle.car": "other"})
    train, ids = written(tmp_path / "out")
    assert [c["name"] for c in train["categories"]] == ["other", "flat.driveable_surface"]
    person, car = train["annotations"]
    assert (person["category_id"], person["iscrowd"]) == (1, 1)
    assert (car["category_id"], car["iscrowd"]) == (1, 0)
    assert (ids[30, 35], ids[30, 15]) == (255, 1)
    with pytest.raises(
        DataError, match=r"rename maps 'vehicle.car' to 'flat.driveable_surface', wh"
    ):
        convert("nuimages", source, tmp_path / "x", rename={"vehicle.car": SURFACES[0]})


def test_objects_without_a_mask(tmp_path: Path) -> None:
    content = tables()
    content["object_ann"][0]["mask"] = None
    content["object_ann"][1] |= {"mask": packed(np.zeros(SIZE, np.bool_)), "bbox": [9, 9, 9, 20]}
    card = convert("nuimages", write(tmp_path / "in", content), tmp_path / "out")
    train, _ = written(tmp_path / "out")
    (person,) = train["annotations"]
    assert "segmentation" not in person
    (skipped,) = card.splits[0].skipped
    assert skipped.reason.startswith("it has neither a mask nor a box")


@pytest.mark.parametrize(
    ("table", "row", "change", "told"),
    [
        ("object_ann", 1, {"category_token": "zz"}, r"row 1 \(o2\) names 'zz', which category"),
        ("object_ann", 0, {"bbox": [1, 2, 3]}, r"row 0 \(o1\) has the bbox \[1, 2, 3\]"),
        ("object_ann", 0, {"bbox": None}, "has None as bbox; it must be of the type list"),
        ("object_ann", 0, {"attribute_tokens": ["zz"]}, "names 'zz', which attribute"),
        ("object_ann", 0, {"category_token": "c2"}, "'flat.driveable_surface', which is a surface"),
        ("object_ann", 0, {"sample_data_token": "w"}, "'w', which is not a key frame"),
        (
            "object_ann",
            0,
            {"mask": {"size": [64, 96], "counts": "%"}},
            "not base64-encoded run lengths",
        ),
        (
            "object_ann",
            0,
            {"mask": {"size": [9, 9], "counts": "AAAA"}},
            "not base64-encoded run lengths",
        ),
        ("object_ann", 0, {"mask": 3}, "not base64-encoded run lengths"),
        ("surface_ann", 0, {"category_token": "c1"}, "a surface of the category 'vehicle.car'"),
        ("sample_data", 1, {"filename": "../a.jpg"}, "must lie inside the source"),
        ("sample_data", 1, {"filename": "samples/b.jpg"}, r"samples/b\.jpg is missing"),
        ("sample_data", 1, {"height": 65}, r"states the size \(65, 96\)"),
        ("sample_data", 1, {"sample_token": "zz"}, "names 'zz', which sample.json"),
        ("sample", 0, {"log_token": "zz"}, "names 'zz', which log.json"),
        ("category", 0, {"name": 3}, "has 3 as name"),
    ],
)
def test_wrong_rows(table: str, row: int, change: Any, told: str, tmp_path: Path) -> None:
    content = tables()
    content[table][row] |= change
    with pytest.raises(DataError, match=told):
        convert("nuimages", write(tmp_path / "in", content), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_tables(tmp_path: Path) -> None:
    content = tables()
    del content["surface_ann"]
    with pytest.raises(DataError, match=r"surface_ann\.json is missing"):
        convert("nuimages", write(tmp_path / "in", content), tmp_path / "out")
    with pytest.raises(DataError, match=r"v1\.0-mini is missing"):
        convert("nuimages", tmp_path / "in/samples", tmp_path / "out")
