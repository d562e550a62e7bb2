"""Numbers of a data set, held against hand-computed cases and numpy over real samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_tools.catalog import convert
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.decoding import read_image
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.statistics.measure import (
    ChannelMoments,
    compute_dataset_statistics,
    measure_channels,
)
from resnet_tasks.errors import DataError

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 8, "name": "dust"}]


def write_set(
    folder: Path,
    images: list[Any],
    annotations: list[dict[str, Any]] | None = None,
    *,
    suffix: str = "npy",
    **image_fields: Any,
) -> Path:
    image_records = []
    for i, pixels in enumerate(images):
        name = f"{i}.{suffix}"
        if suffix == "npy":
            np.save(folder / name, pixels)
        else:
            cv2.imwrite(str(folder / name), pixels)
        image_records.append(
            {"id": i, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]}
            | {key: values[i] for key, values in image_fields.items()}
        )
    boxes = [{"id": i} | each for i, each in enumerate(annotations or [])]
    record = {"images": image_records, "annotations": boxes, "categories": CATEGORIES}
    (folder / "a.json").write_text(json.dumps(record))
    return folder / "a.json"


def test_moments_are_numpys_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    # A small spread far from zero: naive sums of squares would lose it.
    parts = [
        (0.9 + 1e-4 * rng.random((height, 7, 5))).astype(np.float32) for height in (1, 40, 3, 200)
    ]
    moments = ChannelMoments()
    for part in parts:
        moments.add(part)
    whole = np.concatenate([part.reshape(-1, 5) for part in parts]).astype(np.float64)
    assert moments.pixels == len(whole)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.std, whole.std(0), rtol=1e-9)
    assert moments.low == tuple(whole.min(0))
    assert moments.high == tuple(whole.max(0))
    assert moments.histogram.sum(1).tolist() == [len(whole)] * 5


def test_hand_computed_channels(tmp_path: Path) -> None:
    first = np.zeros((1, 2, 2), np.uint16)
    first[0, :, 0] = (0, 65535)  # mean 1/2
    first[0, :, 1] = 13107  # 0.2
    second = np.full((2, 1, 2), 65535, np.uint16)
    found = compute_dataset_statistics(read_coco(write_set(tmp_path, [first, second])), channels=2)
    assert found.channels.mean == pytest.approx((0.75, 0.6))
    assert found.channels.std == pytest.approx((np.sqrt(3 / 16), 0.4))
    assert (found.channels.low, found.channels.high) == ((0.0, pytest.approx(0.2)), (1.0, 1.0))
    assert found.sizes == {(1, 2): 1, (2, 1): 1}
    stored = found.value_ranges["uint16"]
    assert (stored.images, stored.low, stored.high) == (2, 0, 65535)
    assert found.channels.histogram[0].tolist() == [1] + [0] * 254 + [3]


def test_hand_computed_objects(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 0, "category_id": 3, "bbox": [0, 0, 10, 20], "area": 200},
        {"image_id": 0, "category_id": 8, "bbox": [100, 50, 100, 100], "area": 10_000},
        {"image_id": 0, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 1},
        {"image_id": 1, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600},
    ]
    gray = np.zeros((100, 200, 1), np.uint8)
    path = write_set(tmp_path, [gray] * 3, annotations, group=["a", "a", "b"])
    found = compute_dataset_statistics(read_coco(path), channels=1)
    assert found.objects == {"cell": 2, "dust": 1}
    assert (found.crowds, found.per_image, found.groups) == (1, [2, 1, 0], 2)
    assert found.by_size == (1, 1, 1)
    assert found.aspect_ratios.tolist() == [2, 1, 1]
    assert found.sides.tolist() == pytest.approx([200**0.5, 100, 40])
    # Centers (5, 10), (150, 100), which lies on the lower edge, and (30, 30).
    places = {tuple(place) for place in np.argwhere(found.centers).tolist()}
    assert places == {(3, 0), (31, 24), (9, 4)}
    assert found.class_pixels is None


def test_hand_computed_class_pixels(tmp_path: Path) -> None:
    maps = [[[0, 3, 3], [8, 8, 255]], [[3, 3, 3], [3, 3, 0]]]
    for i, values in enumerate(maps):
        cv2.imwrite(str(tmp_path / f"map{i}.png"), np.asarray(values, np.uint8))
    image = np.zeros((2, 3, 3), np.uint8)
    path = write_set(tmp_path, [image] * 2, sem_seg_file_name=["map0.png", "map1.png"])
    found = compute_dataset_statistics(read_coco(path), channels=3)
    assert found.class_pixels == {"cell": 7, "dust": 2}
    assert found.void_pixels == 3


def test_values_of_unknown_range_are_counted(tmp_path: Path) -> None:
    images = [np.full((2, 2), -1000, np.int16), np.full((2, 2), 3000, np.int16)]
    coco = read_coco(write_set(tmp_path, images))
    found = compute_dataset_statistics(coco, channels=1)
    assert (found.unplaced, found.channels.pixels) == (2, 0)
    assert (found.value_ranges["int16"].low, found.value_ranges["int16"].high) == (-1000, 3000)
    window = Intensity("window", level=1000, width=4000)
    assert compute_dataset_statistics(coco, channels=1, intensity=window).channels.mean == (0.5,)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((2, 2), np.nan, np.float32), r"0\.npy holds values that are not finite"),
        (np.zeros((2, 2, 5), np.uint8), r"0\.npy has 5 channel.*set data.channels=5"),
    ],
)
def test_unreadable_image_is_named(tmp_path: Path, image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute_dataset_statistics(read_coco(write_set(tmp_path, [image])), channels=1)


def test_image_of_another_size_is_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, [np.zeros((2, 3), np.uint8)])
    np.save(tmp_path / "0.npy", np.zeros((3, 2), np.uint8))
    with pytest.raises(DataError, match=r"0\.npy is 2 x 3 .* says 3 x 2"):
        compute_dataset_statistics(read_coco(path), channels=1)


def test_constant_channel_cannot_be_normalized(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 2), np.uint8)
    image[0, 0, 0] = 255
    coco = read_coco(write_set(tmp_path, [image]))
    dataset = CocoDataset([coco], categories=coco.categories, preparation=Preparation(2))
    with pytest.raises(DataError, match=r"channel 1 .* is 0 everywhere.*data.normalize=weights"):
        measure_channels(dataset)


def test_real_nuclei_are_what_numpy_finds(shared_data: Path, tmp_path: Path) -> None:
    """RGBA images of several sizes, with a mask per nucleus."""
    names = (shared_data / "dsb2018/val.txt").read_text().split()[:12]
    source = tmp_path / "source"
    (source / "stage1_train").mkdir(parents=True)
    for name in names:
        (source / "stage1_train" / name).symlink_to(shared_data / "dsb2018/stage1_train" / name)
    (source / "val.txt").write_text("\n".join(names))
    convert("instance-masks", source, tmp_path / "out", category="nucleus")
    coco = read_coco(tmp_path / "out/val.json")
    found = compute_dataset_statistics(coco)
    paths = [coco.image_path(record) for record in coco.images]
    images = [read_image(path).reshape(-1, 3) / 255 for path in paths]
    whole = np.concatenate(images)
    np.testing.assert_allclose(found.channels.mean, whole.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.channels.std, whole.std(0), rtol=1e-6)
    assert found.channels.pixels == len(whole)
    assert sum(found.sizes.values()) == len(names)
    assert sum(found.per_image) == sum(found.objects.values()) == len(found.boxes)
    inside = 0
    for path in paths:
        files = (path.parents[1] / "masks").iterdir()
        masks = [cv2.imread(str(each), cv2.IMREAD_GRAYSCALE) for each in files]
        inside += int((np.maximum.reduce(masks) > 0).sum())
    assert found.class_pixels == {"nucleus": inside}


def test_real_boxes_are_what_numpy_finds(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "coco_tiny"
    raw = json.loads((folder / "annotations/instances_val2017.json").read_text())
    chosen = {each["id"] for each in raw["images"][:20]}
    raw["images"] = raw["images"][:20]
    raw["annotations"] = [each for each in raw["annotations"] if each["image_id"] in chosen]
    (tmp_path / "few.json").write_text(json.dumps(raw))
    coco = read_coco(tmp_path / "few.json", images_root=folder / "val2017")
    found = compute_dataset_statistics(coco)
    areas = np.asarray([each["area"] for each in raw["annotations"] if not each["iscrowd"]])
    assert sorted(found.areas) == pytest.approx(sorted(areas))
    small = int((areas < 1024).sum())
    large = int((areas > 9216).sum())
    assert found.by_size == (small, len(areas) - small - large, large)
    assert found.crowds == sum(each["iscrowd"] for each in raw["annotations"])
