"""BDD100K's label files of 2018: one JSON per image (bdd100k documentation, "Label format")."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import bdd100k, image, text

CAR = {"category": "car", "id": 0, "attributes": {"occluded": True}, "box2d": {"x1": 10, "y1": 20,
       "x2": 39, "y2": 44}}  # fmt: skip
ROAD = {"category": "area/drivable", "id": 1, "poly2d": [[0, 40, "L"], [96, 40, "L"], [96, 64, "L"],
        [0, 64, "L"]]}  # fmt: skip
CURB = {"category": "lane/road curb", "id": 2, "poly2d": [[0, 10, "L"], [95, 10, "L"]]}


def write_labels(file: Path, *objects: Any, name: str | None = None, **changes: Any) -> None:
    content = {
        "name": name or file.stem,
        "frames": [{"timestamp": 10000, "objects": list(objects)}],
        "attributes": {"weather": "clear"},
    }
    text(file, json.dumps(content | changes))


def written(out: Path, split: str = "train") -> dict[str, Any]:
    return dict(json.loads((out / f"{split}.json").read_text()))


@pytest.mark.parametrize("folder", ["{}/100k/train", "{}/train", "{}/train/nested"])
def test_files_of_one_image_are_found_without_options(folder: str, tmp_path: Path) -> None:
    parent = folder.removesuffix("/nested")
    image(tmp_path / "in" / parent.format("images") / "a.jpg", bdd100k.SIZE)
    write_labels(tmp_path / "in" / folder.format("labels") / "a.json", CAR, ROAD, CURB)
    (train,) = convert("scalabel", tmp_path / "in", tmp_path / "out").splits
    content = written(tmp_path / "out")
    (record,), (car,) = content["images"], content["annotations"]
    assert record["file_name"] == f"{parent.format('images')}/a.jpg"
    assert record["attributes"] == {"weather": "clear"}
    assert (car["category_id"], car["bbox"]) == (3, [10, 20, 30, 25])
    assert car["attributes"] == {"occluded": True}
    assert train.notes == ("skipped labels of other tasks: direct 1, road curb 1",)


def test_splits_areas_and_lanes(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        image(tmp_path / f"in/images/100k/{split}/{name}.jpg", bdd100k.SIZE)
        write_labels(tmp_path / f"in/labels/100k/{split}/{name}.json", CAR, ROAD, CURB)
    image(tmp_path / "in/images/100k/train/c.png", bdd100k.SIZE)
    write_labels(tmp_path / "in/labels/100k/train/c.json")
    card = convert("scalabel", tmp_path / "in", tmp_path / "out", semantic="drivable")
    assert [(split.split, split.images) for split in card.splits] == [("train", 2), ("val", 1)]
    ids = np.asarray(Image.open(tmp_path / "out/semantic/val/b.png"))
    assert ((ids == 11).sum(), ids[:40].any()) == (96 * 24, False)
    card = convert("scalabel", tmp_path / "in", tmp_path / "lanes", semantic="lanes", lane_width=2)
    assert card.splits[1].pixels["road curb"] > 96


def test_names_and_folders_by_option(tmp_path: Path) -> None:
    image(tmp_path / "in/photos/b.png", bdd100k.SIZE)
    write_labels(tmp_path / "in/json/x.json", CAR, name="b.png")
    text(tmp_path / "in/json/._x.json", "rubbish")
    text(tmp_path / "in/json/readme.txt", "rubbish")
    places = {"labels": ("json",), "images": "photos"}
    convert("scalabel", tmp_path / "in", tmp_path / "out", **places)
    assert written(tmp_path / "out")["images"][0]["file_name"] == "photos/b.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"x\.json has no list of `frames`; in a folder"),
        (json.dumps([bdd100k.frame("a.jpg", [])]), "has no list of `frames`"),
        (json.dumps({"frames": [bdd100k.frame("a.jpg", [])]}), "1 frame; .*key `objects`"),
        (json.dumps({"frames": [{"objects": []}] * 2}), "has 2 frames; .* describes one image"),
        (json.dumps({"frames": [{"objects": 3}]}), r"x\.json: objects are 3; they must be a list"),
        (json.dumps({"frames": [{"objects": [3]}]}), r"x\.json, label 0 is 3; it must be"),
        (json.dumps({"name": "../a", "frames": []}), r"x\.json has the name '\.\./a'; it must be"),
        (json.dumps({"name": "gone", "frames": []}), r"the image .*gone\.jpg is missing"),
        ("{", r"x\.json"),
    ],
)
def test_wrong_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    image(tmp_path / "in/images/train/a.jpg", bdd100k.SIZE)
    write_labels(tmp_path / "in/labels/train/a.json", CAR)
    text(tmp_path / "in/labels/train/x.json", content)
    with pytest.raises(DataError, match=message):
        convert("scalabel", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_files_and_a_single_file_are_named(tmp_path: Path) -> None:
    image(tmp_path / "in/images/train/a.jpg", bdd100k.SIZE)
    write_labels(tmp_path / "in/labels/train/a.json", CAR)
    with pytest.raises(DataError, match=r"a\.json is the label file of one image .* to their fold"):
        convert("scalabel", tmp_path / "in", tmp_path / "out", labels=("labels/train/a.json",))
    (tmp_path / "in/labels/train/a.json").rename(tmp_path / "in/labels/train/a.txt")
    with pytest.raises(DataError, match=r"should contain JSON files, but contains a\.txt; set"):
        convert("scalabel", tmp_path / "in", tmp_path / "out")


def test_a_few_invalid_objects_are_skipped(tmp_path: Path) -> None:
    image(tmp_path / "in/images/train/a.jpg", bdd100k.SIZE)
    broken = [{**ROAD, "poly2d": [[0, 40, "L"], [96, 40]]}, {**CAR, "box2d": {"x1": "a"}}]
    write_labels(tmp_path / "in/labels/train/a.json", CAR, ROAD, *broken)
    (train,) = convert("scalabel", tmp_path / "in", tmp_path / "out", semantic="drivable").splits
    assert train.objects["car"] == 1
    assert [each.description for each in train.skipped] == ["direct", "car"]
    assert "has no list of vertices" in train.skipped[0].reason
