"""The table is that of CamVid's label_colors.txt (Brostow et al. 2009)."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import DataError
from tests.support.tiny_sources import image, text

CAMVID = """\
64 128 64\tAnimal
192 0 128\tArchway
0 128 192\tBicyclist
0 128 64\tBridge
128 0 0\t\tBuilding
64 0 128\tCar
64 0 192\tCartLuggagePram
192 128 64\tChild
192 192 128\tColumn_Pole
64 64 128\tFence
128 0 192\tLaneMkgsDriv
192 0 64\tLaneMkgsNonDriv
128 128 64\tMisc_Text
192 0 192\tMotorcycleScooter
128 64 64\tOtherMoving
64 192 128\tParkingBlock
64 64 0\t\tPedestrian
128 64 128\tRoad
128 128 192\tRoadShoulder
0 0 192\t\tSidewalk
192 128 128\tSignSymbol
128 128 128\tSky
64 128 192\tSUVPickupTruck
0 0 64\t\tTrafficCone
0 64 64\t\tTrafficLight
192 64 128\tTrain
128 128 0\tTree
192 128 192\tTruck_Bus
64 0 64\t\tTunnel
192 192 0\tVegetationMisc
0 0 0\t\tVoid
64 192 0\tWall
"""
SKY, CAR, VAN, VOID = (128, 128, 128), (64, 0, 128), (64, 128, 192), (0, 0, 0)
OPTIONS: dict[str, Any] = {
    "images": "701_StillsRaw_full",
    "maps": "LabeledApproved_full",
    "ending": "_L",
}


def camvid(folder: Path) -> Path:
    pixels = np.empty((64, 96, 3), np.uint8)
    pixels[:] = SKY
    pixels[20:40, 10:30], pixels[20:40, 50:70], pixels[:4] = CAR, VAN, VOID
    for name in ("0001TP_006690", "0016E5_00390"):
        image(folder / f"701_StillsRaw_full/{name}.png")
        file = folder / f"LabeledApproved_full/{name}_L.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    text(folder / "label_colors.txt", CAMVID)
    text(folder / "train.txt", "0001TP_006690\n")
    text(folder / "val.txt", "0016E5_00390\n")
    return folder


def written(out: Path) -> tuple[dict[str, Any], np.ndarray]:
    train = json.loads((out / "train.json").read_text())
    return train, np.asarray(Image.open(out / train["images"][0]["sem_seg_file_name"]))


def test_all_classes_of_the_table(tmp_path: Path) -> None:
    card = convert("color-maps", camvid(tmp_path / "in"), tmp_path / "out", **OPTIONS)
    assert [split.images for split in card.splits] == [1, 1]
    train, ids = written(tmp_path / "out")
    names = [each["name"] for each in train["categories"]]
    assert (len(names), names[0], names[-1]) == (31, "Animal", "Wall")
    assert names[ids[10, 10] - 1] == "Sky"
    assert names[ids[30, 20] - 1] == "Car"
    assert names[ids[30, 60] - 1] == "SUVPickupTruck"
    assert (ids[:4] == 255).all()
    assert read_coco(tmp_path / "out/train.json").problems == ()


def test_classes_are_merged(tmp_path: Path) -> None:
    merge = {"Sky": "Sky", "SUVPickupTruck": "Car", "Car": "Car", "Truck_Bus": "Car"}
    options = OPTIONS | {"merge": merge, "things": ("Car",), "boxes": True}
    convert("color-maps", camvid(tmp_path / "in"), tmp_path / "out", **options)
    train, ids = written(tmp_path / "out")
    assert [(c["name"], c["isthing"]) for c in train["categories"]] == [("Sky", 0), ("Car", 1)]
    assert (ids[30, 20], ids[30, 60]) == (2, 2)
    assert [a["bbox"] for a in train["annotations"]] == [[10, 20, 20, 20], [50, 20, 20, 20]]


def test_folders_by_split_and_palettes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image(tmp_path / f"in/{split}/a.jpg")
        file = tmp_path / f"in/{split}_labels/a.png"
        file.parent.mkdir()
        stored = Image.fromarray(np.full((64, 96, 3), CAR, np.uint8)).quantize(4)
        assert stored.mode == "P"
        stored.save(file)
    text(tmp_path / "in/class.csv", "64,0,128,Car\n128,128,128,Sky\n")
    places = {"images": "{split}", "maps": "{split}_labels", "colors": "class.csv"}
    card = convert("color-maps", tmp_path / "in", tmp_path / "out", **places)
    assert card.splits[1].pixels == {"Car": 64 * 96, "Sky": 0}


def test_an_unknown_color_is_told_with_its_place(tmp_path: Path) -> None:
    source = camvid(tmp_path / "in")
    file = source / "LabeledApproved_full/0016E5_00390_L.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[50, 7], pixels[51, 8:10] = (1, 2, 3), (1, 2, 4)
    Image.fromarray(pixels).save(file)
    expected = r"0016E5_00390_L\.png has 2 colors outside the table of classes: \(1, 2, 3\) in 1 "
    with pytest.raises(
        DataError, match=rf"{expected}pixel, \(1, 2, 4\) in 2 pixels; the first one at x 7, y 50"
    ):
        convert("color-maps", source, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "options", "told"),
    [
        ("64 0 128 Car\n64 0 Sky", {}, r"line 2 is '64 0 Sky'; expected R G B name"),
        ("64 0 256 Car", {}, "line 1 is"),
        ("64 0 128 Car\n64 0 128 Bus", {}, "line 2: .* repeats an earlier name or color"),
        ("64 0 128 Car\n1 2 3 Car", {}, "line 2: .* repeats an earlier name or color"),
        (CAMVID, {"merge": {"Auto": "Car"}}, "has no class 'Auto'; it has Animal"),
        (CAMVID, {"things": ("Auto",)}, r"the things \['Auto'\] are not among"),
        (CAMVID, {"images": "{split}"}, r"must both contain \{split\}"),
        (CAMVID, {"ending": "_X"}, "lists '0001TP_006690_X', but .* has no such image"),
        (CAMVID, {"maps": "none"}, "none is missing"),
    ],
)
def test_mistakes(table: str, options: dict[str, Any], told: str, tmp_path: Path) -> None:
    source = camvid(tmp_path / "in")
    text(source / "label_colors.txt", table)
    with pytest.raises(DataError, match=told):
        convert("color-maps", source, tmp_path / "out", **OPTIONS | options)


def test_lossy_deep_and_several_maps_are_rejected(tmp_path: Path) -> None:
    """16 bits that end at 255 used to become black, which is void."""
    source = camvid(tmp_path / "in")
    file = source / "LabeledApproved_full/0016E5_00390_L.png"
    pixels = np.asarray(Image.open(file)).copy()
    Image.fromarray(pixels).save(file, "JPEG")
    with pytest.raises(DataError, match=r"0016E5_00390_L\.png is stored as JPEG, which changes"):
        convert("color-maps", source, tmp_path / "out", **OPTIONS)
    cv2.imwrite(str(file), pixels.astype(np.uint16))
    with pytest.raises(DataError, match=r"3 channels of uint16; colors need 8-bit RGB"):
        convert("color-maps", source, tmp_path / "out", **OPTIONS)
    maps = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    maps[0].save(file, "PNG", save_all=True, append_images=maps[1:])
    with pytest.raises(DataError, match=r"0016E5_00390_L\.png is an animation of 2 images"):
        convert("color-maps", source, tmp_path / "out", **OPTIONS)
