import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from data_tools.catalog import prepare
from data_tools.converters.label_maps import convert_label_maps, find_pairs
from data_tools.writing.data_card import DataCard
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError

CLASSES, THINGS = ("road", "car"), ("car",)
VOID = 5


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def segnet(root: Path, indices: np.ndarray, line: str = "train/a.jpg trainannot/a.png") -> Path:
    save(root / "train/a.jpg", np.zeros((*indices.shape, 3)))
    save(root / "trainannot/a.png", indices)
    (root / "train.txt").write_text(line + "\n")
    return root


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def camvid(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataCard]:
    out = tmp_path_factory.mktemp("camvid") / "out"
    return out, prepare("camvid", shared_data / "camvid", out)


def split(card: DataCard, name: str) -> SplitSummary:
    return next(each for each in card.splits if each.split == name)


def test_camvid_counts(camvid: tuple[Path, DataCard]) -> None:
    _, card = camvid
    assert [(each.split, each.images) for each in card.splits] == [("train", 367), ("val", 101)]
    assert min(split(card, "train").pixels.values()) > 100_000
    assert len(split(card, "train").pixels) == 11
    assert {n for n, count in split(card, "val").objects.items() if count} == {
        *("Car", "Pedestrian", "Bicyclist")
    }


def test_camvid_ids_are_the_indices_plus_one_and_void(
    camvid: tuple[Path, DataCard], shared_data: Path
) -> None:
    out, _ = camvid
    voids = 0
    for record in load(out / "val.json")["images"][::20]:
        ids = read_label_map(out / record["sem_seg_file_name"])
        stem = Path(record["file_name"]).stem
        stored = read_label_map(shared_data / "camvid" / "valannot" / f"{stem}.png")
        assert (ids == np.where(stored == 11, 255, stored + 1)).all()
        voids += int((ids == 255).sum())
    assert voids > 1000


def test_camvid_is_read_without_a_problem(camvid: tuple[Path, DataCard]) -> None:
    for name in ("train", "val"):
        read = read_coco(camvid[0] / f"{name}.json")
        assert read.problems == ()
        assert read.find_missing_files() == ()
        assert read.annotated == frozenset(("boxes", "semantic"))


def test_ids_by_hand(tmp_path: Path) -> None:
    source = segnet(tmp_path / "in", np.array([[0, 1, VOID], [1, 1, 0]]))
    (summary,) = convert_label_maps(
        source, tmp_path / "out", classes=CLASSES, things=THINGS, void=VOID
    )
    ids = read_label_map(tmp_path / "out/semantic/train/a.png")
    assert ids.tolist() == [[1, 2, 255], [2, 2, 1]]
    assert summary.pixels == {"road": 2, "car": 3}
    content = load(tmp_path / "out/train.json")
    assert content["annotations"] == []
    assert content["info"]["annotated"] == ["semantic"]
    assert [c["isthing"] for c in content["categories"]] == [0, 1]


def test_boxes_are_drawn_around_components_of_things(tmp_path: Path) -> None:
    indices = np.zeros((20, 40))
    indices[2:12, 3:13] = 1
    indices[12:15, 13:15] = 1  # touches at a corner: the same component
    indices[0:2, 30:34] = 1  # 8 pixels: too small to be judged
    source = segnet(tmp_path / "in", indices)
    convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS, boxes=True)
    found = load(tmp_path / "out/train.json")["annotations"]
    assert sorted((a["bbox"], a["iscrowd"], a["category_id"]) for a in found) == [
        ([3, 2, 12, 13], 0, 2),
        ([30, 0, 4, 2], 1, 2),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "train/a.jpg trainannot/a.png",
        "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png",
        "../../train/a.jpeg ./trainannot/a.png",
    ],
)
def test_foreign_prefixes_and_suffixes_are_resolved_inside_the_source(
    tmp_path: Path, line: str
) -> None:
    source = segnet(tmp_path, np.zeros((4, 4)), line)
    assert find_pairs(source, "train") == [
        (source / "train/a.jpg", source / "trainannot/a.png"),
    ]
    assert find_pairs(source, "val") == []


def test_without_a_list_names_are_paired(tmp_path: Path) -> None:
    source = segnet(tmp_path, np.zeros((4, 4)))
    (source / "train.txt").unlink()
    assert [(a.name, b.name) for a, b in find_pairs(source, "train")] == [("a.jpg", "a.png")]
    (source / "trainannot/a.png").unlink()
    with pytest.raises(DataError, match=r"a\.jpg has no label map of that name"):
        find_pairs(source, "train")


def test_unknown_values_name_file_and_value(tmp_path: Path) -> None:
    source = segnet(tmp_path / "in", np.array([[0, 1, 2], [200, 1, 2]]))
    with pytest.raises(DataError) as raised:
        convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS, void=VOID)
    message = str(raised.value)
    assert "trainannot/a.png" in message
    assert "2 (2 pixels), 200 (1 pixel); allowed: 0, 1, 5" in message
    assert not (tmp_path / "out/train.json").exists()


def test_wrong_lists_and_sizes_are_named(tmp_path: Path) -> None:
    source = segnet(tmp_path / "in", np.zeros((4, 4)), "train/b.png trainannot/a.png")
    with pytest.raises(DataError, match=r"train\.txt lists 'train/b\.png'"):
        convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS)
    (source / "train.txt").write_text("train/a.jpg\n")
    with pytest.raises(DataError, match=r"line 'train/a\.jpg'; every line must name"):
        convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS)
    (source / "train.txt").write_text("train/a.jpg trainannot/a.png\n")
    save(source / "trainannot/a.png", np.zeros((4, 6)))
    with pytest.raises(DataError, match=r"\(4, 6\) \(height, width\), but the image has \(4, 4\)"):
        convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS)
    with pytest.raises(DataError, match=r"train, trainannot, train\.txt are missing; found in"):
        convert_label_maps(tmp_path, tmp_path / "out", classes=CLASSES, things=THINGS)


def test_floats_are_rounded_and_lossy_or_several_maps_rejected(tmp_path: Path) -> None:
    """0.9999 is class 1, not the 0 that truncation makes of it."""
    source = segnet(tmp_path / "in", np.zeros((2, 3)), "train/a.jpg trainannot/a.tif")
    file = source / "trainannot/a.tif"
    tifffile.imwrite(file, np.asarray([[0, 0.9999, 5.0004], [1, 0, 1]], np.float32))
    convert_label_maps(source, tmp_path / "out", classes=CLASSES, things=THINGS, void=VOID)
    ids = read_label_map(tmp_path / "out/semantic/train/a.png")
    assert ids.tolist() == [[1, 2, 255], [2, 1, 2]]
    tifffile.imwrite(file, np.zeros((2, 2, 3), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match=r"a\.tif holds 2 images"):
        convert_label_maps(source, tmp_path / "no", classes=CLASSES, things=THINGS, void=VOID)
    Image.new("L", (3, 2)).save(file, "JPEG")
    with pytest.raises(DataError, match=r"a\.tif is stored as JPEG, which changes pixel values"):
        convert_label_maps(source, tmp_path / "no", classes=CLASSES, things=THINGS, void=VOID)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("41-labelmap-jpeg85", r"trainannot/a\.jpg is stored as JPEG"),
        ("41-labelmap-tif-2pages", r"trainannot/a\.tif holds 2 images"),
        ("41-labelmap-float-0.9999", ""),
    ],
)
def test_reported_label_maps(name: str, message: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data.with_name("cases") / name / "in"
    if not source.is_dir():
        pytest.skip(f"the reported input is not at {source}")
    classes = tuple("abcdef")
    if message:
        with pytest.raises(DataError, match=message):
            convert_label_maps(source, tmp_path / "out", classes=classes)
        return
    (summary,) = convert_label_maps(source, tmp_path / "out", classes=classes, things=classes)
    assert summary.pixels == {"a": 1708, "b": 824, "c": 1200, "d": 280, "e": 0, "f": 84}
