import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.converters.instance_masks import compute_contour, convert_instance_masks
from data_tools.reading.mask_foreground import MaskReader
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.images.label_files import read_label_map
from resnet_tasks.errors import DataError


def save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file)


def bowl(root: Path, masks: dict[str, np.ndarray], name: str = "cafe") -> Path:
    """One image of 6 x 8 with an alpha channel, and its masks."""
    folder = root / "stage1_train" / name
    save(folder / "images" / f"{name}.png", np.zeros((6, 8, 4)))
    (folder / "masks").mkdir()
    for mask_name, mask in masks.items():
        save(folder / "masks" / f"{mask_name}.png", mask)
    return root


def square(top: int, left: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((6, 8))
    mask[top : top + 3, left : left + 2] = value
    return mask


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dsb2018(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, tuple[SplitSummary, ...]]:
    """The whole validation split and the first training images (all of it is a slow test)."""
    source = tmp_path_factory.mktemp("dsb2018")
    (source / "stage1_train").symlink_to(shared_data / "dsb2018" / "stage1_train")
    listed = (shared_data / "dsb2018" / "train.txt").read_text().split()
    (source / "train.txt").write_text("\n".join(listed[:20]))
    (source / "val.txt").write_text((shared_data / "dsb2018" / "val.txt").read_text())
    return source, source / "out", convert_instance_masks(source, source / "out")


def test_dsb2018_counts(dsb2018: tuple[Path, Path, tuple[SplitSummary, ...]]) -> None:
    source, _, (train, val) = dsb2018
    assert (train.split, train.images) == ("train", 20)
    assert (val.split, val.images, val.objects, val.skipped) == ("val", 84, {"nucleus": 3004}, ())
    folders = (source / "stage1_train" / name for name in (source / "val.txt").read_text().split())
    assert sum(len(list((folder / "masks").iterdir())) for folder in folders) == 3004


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # inside pycocotools
def test_dsb2018_masks_are_the_source_masks(
    dsb2018: tuple[Path, Path, tuple[SplitSummary, ...]],
) -> None:
    source, out, _ = dsb2018
    content = load(out / "val.json")
    record = content["images"][0]
    objects = [a for a in content["annotations"] if a["image_id"] == record["id"]]
    folder = (source / record["file_name"]).parents[1]
    masks = [
        MaskReader(one_level=False).read(file) for file in sorted((folder / "masks").iterdir())
    ]
    assert len(objects) == len(masks) > 3
    for object_, mask in zip(objects, masks, strict=True):
        assert (coco_mask.decode(object_["segmentation"]).astype(bool) == mask).all()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        assert object_["bbox"] == [columns[0], rows[0], width, height]
        assert object_["area"] == mask.sum()
    semantic = read_label_map(out / record["sem_seg_file_name"])
    assert ((semantic == 1) == np.any(masks, axis=0)).all()
    assert set(np.unique(semantic)) == {0, 1}


def test_dsb2018_is_read_without_a_problem(
    dsb2018: tuple[Path, Path, tuple[SplitSummary, ...]],
) -> None:
    for split in ("train", "val"):
        read = read_coco(dsb2018[1] / f"{split}.json")
        assert read.problems == ()
        assert read.find_missing_files() == ()
        assert read.annotated == frozenset(("boxes", "masks", "semantic"))


@pytest.mark.slow
def test_all_of_dsb2018(shared_data: Path, tmp_path: Path) -> None:
    train, val = convert_instance_masks(shared_data / "dsb2018", tmp_path)
    assert (train.images, val.images) == (360, 84)
    assert (train.objects, val.objects) == ({"nucleus": 16298}, {"nucleus": 3004})
    assert train.skipped == val.skipped == ()


def test_lists_of_dsb2018_name_360_and_84_images(shared_data: Path) -> None:
    names = [(shared_data / "dsb2018" / f"{s}.txt").read_text().split() for s in ("train", "val")]
    assert [len(set(each)) for each in names] == [360, 84]
    assert not set(names[0]) & set(names[1])


def test_objects_by_hand_and_empty_masks_counted(tmp_path: Path) -> None:
    masks = {"a": square(0, 0), "b": square(3, 6, value=1), "c": np.zeros((6, 8))}
    source = bowl(tmp_path / "in", masks)
    (summary,) = convert_instance_masks(source, tmp_path / "out", category="cell")
    content = load(tmp_path / "out/train.json")
    assert [a["bbox"] for a in content["annotations"]] == [[0, 0, 2, 3], [6, 3, 2, 3]]
    assert [a["area"] for a in content["annotations"]] == [6, 6]
    assert summary.objects == {"cell": 2}
    assert summary.pixels == {"cell": 12}
    assert [(s.file, s.reason) for s in summary.skipped] == [
        ("cafe/masks/c.png", "its mask is empty")
    ]


def test_opaque_black_masks_are_empty(tmp_path: Path) -> None:
    opaque = np.zeros((6, 8, 4))
    opaque[..., 3] = 255
    save(tmp_path / "m.png", opaque)
    assert not MaskReader(one_level=False).read(tmp_path / "m.png").any()
    opaque[2, 3, 1] = 9
    save(tmp_path / "m.png", opaque)
    assert np.argwhere(MaskReader(one_level=False).read(tmp_path / "m.png")).tolist() == [[2, 3]]


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    (summary,) = convert_instance_masks(bowl(tmp_path / "in", {}), tmp_path / "out")
    assert (summary.images, summary.objects) == (1, {"nucleus": 0})


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is not a folder"):
        convert_instance_masks(tmp_path / "none", tmp_path / "out")
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="found photos: pass the folder"):
        convert_instance_masks(tmp_path, tmp_path / "out")
    source = bowl(tmp_path / "in", {"a": np.ones((8, 6))})
    with pytest.raises(DataError, match=r"a\.png has size \(8, 6\) .*, but its image has \(6, 8\)"):
        convert_instance_masks(source, tmp_path / "out")
    (source / "stage1_train/cafe/masks/a.png").write_text("no image")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        convert_instance_masks(source, tmp_path / "out")
    (source / "val.txt").write_text("beef\ncafe\n")
    with pytest.raises(DataError, match=r"val\.txt lists images .*stage1_train: 'beef'; add"):
        convert_instance_masks(source, tmp_path / "out")


def test_rims_are_a_class_of_pixels_and_keep_touching_objects_apart(tmp_path: Path) -> None:
    """A 4 x 4 object in the corner of the image beside one of 4 x 3: rims of one pixel."""
    first, second = np.zeros((6, 8)), np.zeros((6, 8))
    first[:4, :4] = 255
    second[:4, 4:7] = 255
    root = bowl(tmp_path, {"1": first, "2": second})
    (summary,) = convert_instance_masks(root, tmp_path / "out", contour=1)
    coco = load(tmp_path / "out/train.json")
    assert [(each["name"], each["isthing"]) for each in coco["categories"]] == [
        ("nucleus", 1),
        ("contour", 0),
    ]
    assert summary.objects["nucleus"] == 2
    assert [each["bbox"] for each in coco["annotations"]] == [[0, 0, 4, 4], [4, 0, 3, 4]]
    (image,) = coco["images"]
    found = read_label_map(tmp_path / "out" / image["sem_seg_file_name"])
    assert found.tolist() == [
        [1, 1, 1, 2, 2, 1, 2, 0],  # along the edge of the image there is no rim
        [1, 1, 1, 2, 2, 1, 2, 0],
        [1, 1, 1, 2, 2, 1, 2, 0],
        [2, 2, 2, 2, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_thin_object_is_all_rim_and_a_negative_width_is_refused(tmp_path: Path) -> None:
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    assert (compute_contour(mask, 2) == mask).all()
    assert compute_contour(mask, 1).sum() == 8
    with pytest.raises(DataError, match="contour is -1"):
        convert_instance_masks(tmp_path, tmp_path / "out", contour=-1)


@pytest.mark.parametrize("name", ["b.gif", "b.npy", "b.avif", "notes.txt", "b"])
def test_files_that_would_not_be_read_are_rejected(name: str, tmp_path: Path) -> None:
    source = bowl(tmp_path / "in", {"a": square(0, 0)})
    (source / "stage1_train/cafe/masks" / name).write_bytes(b"GIF89a")
    with pytest.raises(
        DataError, match=rf"masks/{name} is not an image: .*\(\.jpg, \.jpeg, \.png,"
    ):
        convert_instance_masks(source, tmp_path / "out")
    assert not (tmp_path / "out" / "train.json").exists()


def test_folders_of_masks_inside_masks_are_rejected(tmp_path: Path) -> None:
    source = bowl(tmp_path / "in", {})
    (source / "stage1_train/cafe/masks/cells.png").mkdir()
    with pytest.raises(DataError, match=r"masks/cells\.png is not an image"):
        convert_instance_masks(source, tmp_path / "out")


def test_suffixes_in_capitals_are_read_and_system_files_listed(tmp_path: Path) -> None:
    source = bowl(tmp_path / "in", {})
    masks = source / "stage1_train/cafe/masks"
    save(masks / "A.PNG", square(0, 0))
    for name in (".DS_Store", "._A.PNG", "Thumbs.db"):
        (masks / name).write_bytes(b"junk")
    (summary,) = convert_instance_masks(source, tmp_path / "out")
    assert summary.objects == {"nucleus": 1}
    assert [skipped.file for skipped in summary.skipped] == [
        "cafe/masks/.DS_Store",
        "cafe/masks/._A.PNG",
        "cafe/masks/Thumbs.db",
    ]
    assert summary.warnings == ()


def test_images_without_a_mask_file_are_listed(tmp_path: Path) -> None:
    source = bowl(tmp_path / "in", {"a": square(0, 0)})
    bowl(source, {}, name="beef")
    (summary,) = convert_instance_masks(source, tmp_path / "out")
    assert summary.warnings == (
        "1 of 2 images have no mask file: beef; check that this is what the images show",
    )
