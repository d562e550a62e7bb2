"""Objects and labels of an image in the frame of its sample."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.datasets.targets import build_masks
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.samples import collate
from tests.support.hand_written import IDENTITY, coco, made
from tests.support.mask_stacks import to_stack


def test_image_without_objects_is_empty_not_unannotated(tmp_path: Path) -> None:
    target = made(coco(tmp_path))[1].target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)


def test_boxes_are_resized_and_clipped(tmp_path: Path) -> None:
    data = made(coco(tmp_path), preparation=Preparation(resize=Resize(16, 16)))
    sample = data[2]
    assert sample.image.shape == (3, 11, 16)  # the ratio is kept
    assert sample.target.boxes is not None
    expected = torch.tensor([[9 * 16 / 12, 5 * 11 / 8, 16, 11]])
    assert torch.allclose(sample.target.boxes, expected)
    back = sample.geometry.boxes_to_original(sample.target.boxes)
    assert torch.allclose(back, torch.tensor([[9.0, 5, 12, 8]]))


def test_what_is_not_annotated_is_none(tmp_path: Path) -> None:
    data = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "semantic"))
    assert data[0].target.semantic is None
    assert data.truth(0, IDENTITY).semantic is None
    data = made(coco(tmp_path, info={"annotated": ["masks"]}))
    assert data[0].target.boxes is None
    assert data[0].target.semantic is not None
    assert data.truth(0, IDENTITY).boxes_xywh is None
    data = made(coco(tmp_path), fields=("boxes",))
    assert data[0].target.semantic is None


def test_masks_follow_their_boxes(tmp_path: Path) -> None:
    masks = made(coco(tmp_path), fields=("boxes", "masks"))[0].target.masks
    assert masks is not None
    assert masks.windows[1].tolist() == [2, 2, 4, 4]
    assert masks.count_pixels().tolist() == [36, 4, 16]
    assert masks.annotated.all()
    empty = made(coco(tmp_path), fields=("boxes", "masks"))[1].target.masks
    assert empty is not None
    assert len(empty) == 0
    unmasked = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "masks"))
    assert unmasked[0].target.masks is None


def write_file(
    folder: Path, size: tuple[int, int], segmentations: list[Any], boxes: list[list[float]]
) -> CocoDataset:
    """Write one gray image with objects, and open it with boxes and masks."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(folder / "0.png")
    annotations = [
        {"id": i + 1, "image_id": 0, "category_id": 1, "bbox": box, "area": 1}
        | {"iscrowd": int(isinstance(segmentation, dict))}
        | ({} if segmentation is None else {"segmentation": segmentation})
        for i, (segmentation, box) in enumerate(zip(segmentations, boxes, strict=True))
    ]
    content = {
        "images": [{"id": 0, "file_name": "0.png", "height": size[0], "width": size[1]}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "a.json").write_text(json.dumps(content), encoding="utf-8")
    file = read_coco(folder / "a.json")
    return CocoDataset([file], categories=file.categories, fields=("boxes", "masks"), cache=False)


def test_objects_without_a_segmentation_among_others(tmp_path: Path) -> None:
    """They keep their box; a crowd keeps its mask and stays an ignore region."""
    square = [[1, 1, 5, 1, 5, 4, 1, 4]]
    crowd = {"size": [8, 10], "counts": [70, 10]}
    boxes = [[1.0, 1, 4, 3], [2.0, 2, 3, 3], [0.0, 0, 10, 8]]
    target = write_file(tmp_path, (8, 10), [square, None, crowd], boxes)[0].target
    assert target.masks is not None
    assert target.boxes is not None
    assert target.ignore is not None
    assert target.boxes.tolist() == [[1, 1, 5, 4], [2, 2, 5, 5], [0, 0, 10, 8]]
    assert target.ignore.tolist() == [False, False, True]
    assert target.masks.annotated.tolist() == [True, False, True]
    # The crowd covers rows 6 and 7 of column 8, and column 9.
    assert target.masks.windows.tolist() == [[1, 1, 5, 4], [0, 0, 0, 0], [8, 0, 10, 8]]
    assert target.masks.count_pixels().tolist() == [12, 0, 10]


@pytest.mark.parametrize("size", [(31, 47), (62, 94), (17, 100), (20, 20)])
@pytest.mark.parametrize("tile", [None, Tile(5, 9, 20, 30)])
def test_masks_equal_the_resized_masks_of_the_full_image(
    size: tuple[int, int], tile: Tile | None
) -> None:
    rng = np.random.default_rng(0)
    polygons = [[rng.uniform(-5, 50, 10).round(1).tolist()] for _ in range(20)]
    record, annotations = make_record(polygons, 31, 47)
    masks = to_stack(build_masks(annotations, record, size, tile), size).numpy()
    shown = (tile or Tile.from_size((31, 47))).rows, (tile or Tile.from_size((31, 47))).columns
    expected: list[NDArray[Any]] = [
        resize_labels(decode_mask(polygon, 31, 47)[shown], size) for polygon in polygons
    ]
    assert np.array_equal(masks, np.stack(expected))


def make_record(segmentations: list[Any], height: int, width: int) -> tuple[Any, list[Any]]:
    """Return the record of an image and an annotation with each segmentation."""

    class Segmented:
        def __init__(self, segmentation: Any) -> None:
            self.segmentation = segmentation

    return ImageRecord(0, "0.png", height, width), [Segmented(each) for each in segmentations]


def write_cells(folder: Path, size: int, count: int) -> tuple[CocoDataset, int]:
    """Write octagons with radii of 10 to 60 pixels; return the sum of the areas of their boxes."""
    rng = np.random.default_rng(0)
    radii = rng.integers(10, 60, count)
    centers = rng.integers(60, size - 60, (count, 2))
    angles = np.arange(8) * np.pi / 4
    polygons, boxes = [], []
    for radius, (x, y) in zip(radii.tolist(), centers.tolist(), strict=True):
        points = np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), axis=1)
        polygons.append([points.ravel().tolist()])
        boxes.append([float(x - radius), float(y - radius), 2.0 * radius, 2.0 * radius])
    return write_file(folder, (size, size), polygons, boxes), int((4 * radii**2).sum())


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [{"HorizontalFlip": {"p": 1.0}}, {"RandomCrop": {"height": 1200, "width": 1200}}],
        [{"Affine": {"rotate": [-20, 20], "p": 1.0}}],
    ],
    ids=["none", "moves", "warp"],
)
def test_memory_of_many_objects_on_a_large_image(tmp_path: Path, steps: list[Any]) -> None:
    """A stack of these masks would take 500 x 4 MB = 2 GB, the image takes 48 MB as float32."""
    data, box_area = write_cells(tmp_path, 2000, 500)
    data.augmentation = SampleAugmentation(Augmentation(steps) if steps else None)
    assert box_area < 10e6
    tracemalloc.start()  # NumPy reports its allocations; PyTorch only makes the arrays below
    try:
        sample = data[0, 0]
        batch = collate([sample])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6
    masks = batch.targets[0].masks
    assert masks is not None
    assert len(masks) > 100
    assert masks.pixels.untyped_storage().nbytes() == len(masks.pixels)
    # Rotated boxes are up to twice as large; the octagons fill 71 % of theirs.
    assert len(masks.pixels) <= 2 * box_area


def test_memory_of_copy_paste(tmp_path: Path) -> None:
    data, box_area = write_cells(tmp_path, 1000, 200)
    single = data[0, 0]
    image = np.ascontiguousarray(single.image.permute(1, 2, 0).numpy())
    tracemalloc.start()
    try:
        paste = CopyPaste(p=1.0, fraction=1.0)
        rng = np.random.default_rng(0)
        _, target = paste((image, single.target), (image, single.target), rng)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6  # a stack has 200 MB, the image 12 MB
    assert target.masks is not None
    assert len(target.masks.pixels) <= 2 * box_area
