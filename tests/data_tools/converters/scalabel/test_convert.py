import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert, prepare
from data_tools.converters.scalabel.convert import convert_scalabel
from data_tools.converters.scalabel.paths import Poly2dPath, flatten_path
from data_tools.writing.data_card import DataCard
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import bdd100k, image, text

Convert = Callable[..., DataCard]


def written(out: Path, split: str = "train") -> dict[str, Any]:
    return dict(json.loads((out / f"{split}.json").read_text()))


@pytest.fixture
def one(tmp_path: Path) -> Convert:
    """Converts a single image of 64 x 96 with the labels given."""

    def run(*labels: dict[str, Any], raw: str | None = None, **options: Any) -> DataCard:
        image(tmp_path / "in/images/a.jpg", bdd100k.SIZE)
        frames = [bdd100k.frame("a.jpg", list(labels))]
        text(tmp_path / "in/train.json", json.dumps(frames) if raw is None else raw)
        places = {"labels": ("{split}.json",), "images": "images"}
        return convert("scalabel", tmp_path / "in", tmp_path / "out", **places, **options)

    return run


def test_boxes_attributes_and_drivable_area(tmp_path: Path) -> None:
    prepare("bdd100k", bdd100k.write(tmp_path / "in"), tmp_path / "out")
    train = written(tmp_path / "out")
    assert [c["name"] for c in train["categories"]][-3:] == [
        "traffic sign",
        "direct",
        "alternative",
    ]
    car, sign = train["annotations"][:2]
    assert (car["category_id"], car["bbox"]) == (3, [10, 20, 30, 25])  # both ends count
    assert car["attributes"] == {
        "occluded": True,
        "truncated": False,
        "trafficLightColor": "NA",
    }
    assert (sign["category_id"], sign["bbox"], "attributes" in sign) == (10, [70, 5, 8, 8], False)
    assert train["images"][0]["attributes"]["timeofday"] == "daytime"
    ids = np.asarray(Image.open(tmp_path / "out/semantic/train/a.png"))
    assert ids[60, 48] == 11
    assert ids[10, 48] == 0
    # A trapezium of height 24 between widths 96 and 30.
    assert (ids == 11).sum() == pytest.approx(24 * (96 + 30) / 2, rel=0.03)


def test_real_labels_without_images(shared_data: Path, tmp_path: Path) -> None:
    labels = {"labels": ("{split}.json",), "images": "", "need_images": False}
    (tmp_path / "in").mkdir()
    sample = (shared_data / "bdd100k_labels/example_annotation.json").read_text()
    text(tmp_path / "in/train.json", sample)
    with pytest.raises(DataError, match=r"b1c81faa-3df17267-0000001\.jpg is missing"):
        convert("scalabel", tmp_path / "in", tmp_path / "out", labels=("{split}.json",))
    card = convert("scalabel", tmp_path / "in", tmp_path / "out", **labels, masks=True)
    assert "without the images" in card.to_markdown()
    train = written(tmp_path / "out")
    (image,) = train["images"]
    assert (image["height"], image["width"]) == (720, 1280)
    assert image["group"] == "b1c81faa-3df17267"
    assert len(train["annotations"]) == 4
    for annotation, label in zip(
        train["annotations"], json.loads(sample)[0]["labels"], strict=True
    ):
        points = np.concatenate([each["vertices"] for each in label["poly2d"]])
        types = "".join(each["types"] for each in label["poly2d"])
        on_it = points[[each == "L" for each in types]]  # a curve stays inside its control points
        x, y, width, height = annotation["bbox"]
        low, high = (x, y), (x + width, y + height)
        assert (points.min(axis=0) - 0.01 <= low).all()
        assert (low <= on_it.min(axis=0) + 0.01).all()
        assert (on_it.max(axis=0) - 0.01 <= high).all()
        assert (high <= points.max(axis=0) + 0.01).all()
        assert annotation["attributes"]["truncated"] is label["attributes"]["truncated"]
    assert read_coco(tmp_path / "out/train.json").problems == ()


def test_real_ignored_labels(shared_data: Path, tmp_path: Path) -> None:
    sample = shared_data / "bdd100k_labels/example_ignore_annotation.json"
    text(tmp_path / "in/val.json", sample.read_text())
    options = {"labels": ("{split}.json",), "images": "", "need_images": False}
    convert("scalabel", tmp_path / "in", tmp_path / "out", **options)
    ignored, person = written(tmp_path / "out", "val")["annotations"]
    assert (ignored["category_id"], ignored["iscrowd"]) == (1, 1)
    assert (person["category_id"], person["iscrowd"]) == (1, 0)
    assert ignored["bbox"] == pytest.approx(
        [1068.051474568342, 362.7665840944419, 41.6711450036762, 104.5265509184486], abs=1e-8
    )
    assert person["attributes"] == {"occluded": True, "truncated": False}


def test_progress_estimates_the_total_from_the_size_of_the_files(tmp_path: Path) -> None:
    for split, number in (("train", 4), ("val", 2)):
        frames = [bdd100k.frame(f"{i}.jpg", []) for i in range(number)]
        text(tmp_path / f"in/{split}.json", json.dumps(frames))
    seen: list[tuple[int, int]] = []
    convert_scalabel(
        tmp_path / "in",
        tmp_path / "out",
        labels=("{split}.json",),
        need_images=False,
        progress=lambda done, total: seen.append((done, total)),
    )
    # All frames have the same size.
    assert seen == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6), (6, 6)]


def test_curves() -> None:
    quarter = 0.5522847498  # of a circle as a cubic curve
    points = ((1.0, 0.0), (1.0, quarter), (quarter, 1.0), (0.0, 1.0))
    scaled = tuple((100 * x, 100 * y) for x, y in points)
    flat = np.reshape(flatten_path(Poly2dPath(scaled, "LCCL", is_closed=False)), (-1, 2))
    assert len(flat) > 20
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), 100, atol=0.05)
    np.testing.assert_allclose(flat[-1], (0, 100), atol=1e-9)
    closed = np.reshape(flatten_path(Poly2dPath((*scaled[:3],), "LCC", is_closed=True)), (-1, 2))
    np.testing.assert_allclose(closed[-1], (100, 0))


def test_lanes_are_drawn(one: Convert, tmp_path: Path) -> None:
    line = {"vertices": [[10, 30], [80, 30]], "types": "LL", "closed": False}
    old = {"category": "lane", "attributes": {"laneTypes": "road curb"}, "poly2d": [line]}
    card = one(old, bdd100k.CAR, semantic="lanes", lane_width=4)
    ids = np.asarray(Image.open(tmp_path / "out/semantic/train/a.png"))
    curb = 11 + 4
    assert set(np.unique(ids)) == {0, curb}
    rows = np.flatnonzero((ids == curb)[:, 40])
    assert abs(len(rows) - 4) <= 1
    assert abs(rows.mean() - 30) <= 1
    assert card.splits[0].pixels["road curb"] == (ids == curb).sum()


def test_polygons_as_pixels_and_as_masks(one: Convert, tmp_path: Path) -> None:
    square = {"vertices": [[10, 10], [30, 10], [30, 30], [10, 30]], "closed": True}
    labels = [
        {
            "category": "sky",
            "poly2d": [{**square, "vertices": [[0, 0], [96, 0], [96, 64], [0, 64]]}],
        },
        {"category": "car", "poly2d": [square], "attributes": {"crowd": True}},
    ]
    one(*labels, semantic="polygons", stuff=("sky",), masks=True)
    train = written(tmp_path / "out")
    assert train["info"]["annotated"] == ["boxes", "masks", "semantic"]
    (car,) = train["annotations"]
    assert (car["iscrowd"], car["area"], car["bbox"]) == (1, 400, [10, 10, 20, 20])
    ids = np.asarray(Image.open(tmp_path / "out/semantic/train/a.png"))
    assert ((ids == 3).sum(), (ids == 11).sum()) == (400, 64 * 96 - 400)


def test_what_is_left_out_is_said(one: Convert, tmp_path: Path) -> None:
    flat = {"category": "bus", "box2d": {"x1": 1400, "y1": 9, "x2": 1500, "y2": 20}}
    empty = {"category": "bus", "id": 7}
    card = one(bdd100k.ROAD, flat, empty, bdd100k.CAR)
    assert [each.reason for each in card.splits[0].skipped] == [
        "its box has no area inside the image",
        "it has neither a box nor a closed polygon",
    ]
    assert "skipped labels of other tasks: direct 1" in card.to_markdown()
    assert read_coco(tmp_path / "out/train.json").problems == ()


def test_further_files_add_to_the_images_of_the_first(tmp_path: Path) -> None:
    source = bdd100k.write(tmp_path / "in")
    areas = [bdd100k.frame("z.jpg", [bdd100k.ROAD]), bdd100k.frame("a.jpg", [bdd100k.LANE])]
    file = source / "labels/drivable/polygons/drivable_train.json"
    text(file, json.dumps({"frames": areas, "config": {"frames": [1]}}))
    card = prepare("bdd100k", source, tmp_path / "out")
    assert "skipped: 1 image that only additional label files list" in card.to_markdown()
    assert card.splits[0].pixels["direct"] == 0
    assert card.splits[0].pixels["alternative"] > 0


def test_what_nobody_drew_is_void(tmp_path: Path) -> None:
    source = bdd100k.write(tmp_path / "in")
    file = source / "labels/drivable/polygons/drivable_train.json"
    text(file, json.dumps([bdd100k.frame("z.jpg", [bdd100k.ROAD])]))
    card = prepare("bdd100k", source, tmp_path / "out")
    assert "no entry in the additional label files; the label maps are void" in (card.to_markdown())
    assert sum(card.splits[0].pixels.values()) == 0
    (first, *_) = sorted((tmp_path / "out/semantic/train").iterdir())
    assert set(np.unique(np.asarray(Image.open(first)))) == {255}


POLY = {"vertices": [[1, 1], [9, 1], [9, 9]], "types": "LLL", "closed": True}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (
            {"category": "tank", "box2d": bdd100k.CAR["box2d"]},
            "category 'tank'; known categories: pedes",
        ),
        ({"category": "car", "box2d": {"x1": 1}}, r"has the box \{'x1': 1\}; x1, y1, x2"),
        ({"category": "car", "box2d": {**bdd100k.CAR["box2d"], "x1": True}}, "has the box"),
        ({"category": "car", "poly2d": [{**POLY, "types": "LC"}]}, "types 'LC'; it needs one"),
        (
            {"category": "car", "poly2d": [{**POLY, "types": "LLC"}]},
            "types 'LLC'; a curve is a vertex L",
        ),
        ({"category": "car", "poly2d": [{**POLY, "vertices": [[1, 1]]}]}, "one letter"),
        ({"category": "car", "poly2d": [{"vertices": [["1", 1]]}]}, "no list of vertices"),
        ({"category": "car", "poly2d": [{"vertices": [[1e9, 1]] * 3}]}, "more than 960 pixels"),
        ({"category": "car", "poly2d": {}}, r"poly2d is \{\}; it must be a list"),
        ({"category": "car", "attributes": []}, r"attributes are \[\]"),
        ({"box2d": {}}, "must be an object with a category"),
    ],
)
def test_wrong_labels(label: dict[str, Any], told: str, one: Convert, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train\.json, frame 0 \(a\.jpg\), label 0.*{told}"):
        one(label)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"category": "car", "box2d": {"x1": 1}}, "has the box {'x1': 1}; x1, y1, x2 and y2 must"),
        ({"category": "car", "poly2d": [{**POLY, "types": "LC"}]}, "types 'LC'; it needs one"),
        ({"category": "car", "poly2d": [{"vertices": [[1e9, 1]] * 3}]}, "more than 960 pixels"),
    ],
)
def test_a_few_invalid_shapes_are_skipped_and_many_are_not(
    label: dict[str, Any], message: str, one: Convert
) -> None:
    with pytest.raises(DataError, match=r"\(11 of 13 objects of train are invalid; up to 10"):
        one(*[label] * 11, bdd100k.CAR, bdd100k.CAR)
    (train,) = one(bdd100k.CAR, label).splits
    assert train.objects["car"] == 1
    (skipped,) = train.skipped
    assert skipped.description == "car"
    assert message in skipped.reason
    assert train.warnings == (f"1 invalid object is skipped: {skipped.reason}",)


def test_invalid_areas_are_skipped_from_the_label_map(one: Convert) -> None:
    broken = {**bdd100k.ROAD, "poly2d": [{**POLY, "types": "LC"}]}
    with pytest.raises(DataError, match=r"\(1 of 1 objects of train are invalid"):
        one(broken, semantic="drivable")
    (train,) = one(bdd100k.ROAD, broken, semantic="drivable").splits
    assert (sum(train.objects.values()), [each.description for each in train.skipped]) == (
        0,
        ["direct"],
    )
    assert train.pixels["direct"] == pytest.approx(24 * (96 + 30) / 2, rel=0.03)


def test_shapes_of_other_tasks_are_not_read(one: Convert) -> None:
    card = one({**bdd100k.ROAD, "poly2d": 3}, bdd100k.CAR)
    assert card.splits[0].skipped == ()
    assert "skipped labels of other tasks: direct 1" in card.to_markdown()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('[{"name": "../a.jpg"}]', "must be a path inside the images"),
        ('[{"name": "/a.jpg"}]', "must be a path inside the images"),
        ("[{}]", "must be a path inside the images"),
        ('[{"name": "a.jpg", "labels": 3}]', "labels are 3"),
        ('[{"name": "a.jpg", "size": {"width": 3}}]', "it needs height and width"),
        ("[1]", "is 1; expected an object"),
        ('[{"name": "a.jpg"}', "ends early"),
        ('[{"name": "a.jp', "ends early"),
        ('[{"name": "a.jpg"} {}]', "in place of a comma after entry 0"),
        ('{"config": 1}', "has no key 'frames'"),
        ("", "ends early"),
        ("[" * 100_000, "nested more than 100 levels deep; download"),
    ],
)
def test_wrong_files(raw: str, told: str, one: Convert, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"train\.json.*({told})|({told}).*train\.json"):
        one(raw=raw)
    assert not (tmp_path / "out").exists()
