import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert, prepare
from data_tools.converters.cityscapes import NOT_EVALUATED, STUFF, THINGS
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import cityscapes, image, text

FILE = "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json"


def written(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "train.json").read_text()))


def test_later_objects_cover_earlier_ones(tmp_path: Path) -> None:
    card = prepare("cityscapes", cityscapes.write(tmp_path / "in"), tmp_path / "out")
    ids = np.asarray(Image.open(next((tmp_path / "out/semantic/train").glob("aachen*"))))
    expected = np.zeros((64, 96), np.int64)
    expected[:31] = STUFF.index("sky") + 1
    expected[31:] = STUFF.index("road") + 1
    car, person = (11 + THINGS.index(name) + 1 for name in ("car", "person"))
    expected[20:50, 10:40] = car  # the plate on it is not drawn
    expected[20:50, 30:60] = person
    expected[:5] = 255
    np.testing.assert_array_equal(ids, expected)
    train = written(tmp_path / "out")
    assert [c["name"] for c in train["categories"]] == [*STUFF, *THINGS]
    assert [c["isthing"] for c in train["categories"]] == [0] * 11 + [1] * 8
    found = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in train["annotations"][:2]]
    assert found == [(car, [10, 20, 20, 30], 0), (person, [30, 20, 30, 30], 1)]
    mask = decode_mask(train["annotations"][0]["segmentation"], 64, 96)
    np.testing.assert_array_equal(mask, expected == car)
    assert [image["group"] for image in train["images"]] == ["aachen", "bochum"]
    assert read_coco(tmp_path / "out/train.json").problems == ()
    assert card.splits[0].objects["bus"] == 0


def test_what_is_hidden_is_listed(tmp_path: Path) -> None:
    source = cityscapes.write(tmp_path / "in")
    hidden = [cityscapes.rectangle("car", 5, 5, 9, 9), cityscapes.rectangle("road", 0, 0, 95, 63)]
    text(source / FILE, cityscapes.content(hidden))
    card = convert("cityscapes", source, tmp_path / "out")
    (skipped,) = card.splits[0].skipped
    assert skipped.description == "car (drawn as number 1)"
    assert skipped.file == Path(FILE).name


def test_coarse_labels_and_a_single_split(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    image(folder / "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png", cityscapes.SIZE)
    polygons = cityscapes.content(cityscapes.OBJECTS)
    text(folder / "gtCoarse/val/ulm/ulm_1_gtCoarse_polygons.json", polygons)
    card = convert("cityscapes", folder, tmp_path / "out", labels="gtCoarse")
    assert [(split.split, split.images) for split in card.splits] == [("val", 1)]
    with pytest.raises(DataError, match="gtFine is missing"):
        convert("cityscapes", folder, tmp_path / "other")
    (folder / "gtFine").mkdir()
    with pytest.raises(DataError, match=r"contains neither train/CITY/.*_gtFine_polygons\.json"):
        convert("cityscapes", folder, tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "needs whole numbers imgHeight"),
        ('{"imgHeight": 64, "imgWidth": 96, "objects": 1}', "needs whole numbers imgHeight"),
        ('{"imgHeight": 64, "imgWidth": 96, "objects": [1]}', "object 0 is 1; it must"),
        (cityscapes.content([cityscapes.rectangle("tank", 1, 1, 2, 2)]), "label 'tank'; Citys"),
        (cityscapes.content([cityscapes.rectangle("tankgroup", 1, 1, 2, 2)]), "'tankgroup'"),
        (cityscapes.content([{"label": "car"}]), r"object 0 \(car\) needs a polygon"),
        (cityscapes.content([cityscapes.rectangle("car", 1, 1, 10**9, 2)]), "near its image"),
        ('{"imgHeight": 32, "imgWidth": 96, "objects": []}', r"\(32, 96\) .* has \(64, 96\)"),
    ],
)
def test_wrong_files(content: str, told: str, tmp_path: Path) -> None:
    source = cityscapes.write(tmp_path / "in")
    text(source / FILE, content)
    with pytest.raises(DataError, match=rf"{Path(FILE).name}.*{told}"):
        convert("cityscapes", source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_publisher_s_own_package_agrees(tmp_path: Path) -> None:
    """Table of labels and pixels of `cityscapesscripts`, where it is installed."""
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    trained = [each for each in labels.labels if 0 <= each.trainId < 19]
    assert [each.name for each in sorted(trained, key=lambda each: each.trainId)] == [
        *STUFF,
        *THINGS,
    ]
    others = {each.name for each in labels.labels} - {*STUFF, *THINGS, "license plate"}
    assert others == set(NOT_EVALUATED)
    drawing = pytest.importorskip("cityscapesscripts.preparation.json2labelImg")
    source = cityscapes.write(tmp_path / "in")
    draw = np.random.default_rng(0)
    objects = [
        {
            "label": str(draw.choice([*STUFF, *THINGS, "cargroup", "static", "license plate"])),
            "polygon": draw.integers(-8, 104, (int(draw.integers(3, 9)), 2)).tolist(),
        }
        for _ in range(60)
    ]
    text(source / FILE, cityscapes.content(objects))
    drawing.json2labelImg(str(source / FILE), str(tmp_path / "theirs.png"), "trainIds")
    convert("cityscapes", source, tmp_path / "out")
    theirs = np.asarray(Image.open(tmp_path / "theirs.png")).astype(np.int64)
    ours = np.asarray(Image.open(next((tmp_path / "out/semantic/train").glob("aachen*"))))
    np.testing.assert_array_equal(ours, np.where(theirs == 255, 255, theirs + 1))
