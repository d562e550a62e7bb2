"""Datasets, tiles, windows, views and copy-paste keep an image and its annotations aligned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.samples import as_tensor
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.inference.test_time_augmentation import SCALES
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.input_images import InputImage
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.samples import Sample, collate
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import to_stack
from tests.support.scenes import LIMIT, SEEDS, SIZE, Array, centroid, require_aligned, scene


def write_scenes(folder: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Write scenes as a COCO file with label maps and instance masks."""
    images, annotations = [], []
    categories = [{"id": 9, "name": "ground"}] + [
        {"id": i, "name": f"object {i}"} for i in range(10, 19)
    ]
    for seed in range(count):
        image, target = scene(seed, size)
        assert target.masks is not None
        assert target.boxes is not None
        assert target.semantic is not None
        Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / f"{seed}.png")
        labels = (target.semantic.numpy() + 9).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{seed}_labels.png")
        images.append(
            {"id": seed, "file_name": f"{seed}.png", "height": size[0], "width": size[1]}
            | {"sem_seg_file_name": f"{seed}_labels.png"}
        )
        masks = to_stack(target.masks, size).numpy()
        for i, (mask, box) in enumerate(zip(masks, target.boxes, strict=True)):
            flat = mask.T.ravel().astype(np.int8)
            runs = np.diff([0, *np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
            left, top, right, bottom = box.tolist()
            annotations.append(
                {"id": 9 * seed + i + 1, "image_id": seed, "category_id": 10 + i, "iscrowd": 0}
                | {"bbox": [left, top, right - left, bottom - top], "area": int(mask.sum())}
                | {"segmentation": {"size": list(size), "counts": [int(run) for run in runs]}}
            )
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "train.json"


def pixels_of(sample: Sample) -> tuple[Array, Target]:
    return sample.image.permute(1, 2, 0).numpy(), sample.target


def dataset(folder: Path, count: int = 40, **options: Any) -> CocoDataset:
    file = read_coco(write_scenes(folder, count))
    fields = ("boxes", "masks", "semantic")
    return CocoDataset([file], categories=file.categories, fields=fields, **options)


@pytest.mark.parametrize("size", [None, (61, 77), (71, 200), (151, 173)])
@pytest.mark.parametrize("scale", [1.0, 0.84])
def test_resized_samples_are_aligned(
    tmp_path: Path, size: tuple[int, int] | None, scale: float
) -> None:
    resize = None if size is None else Resize(*size, keep_ratio=False)
    data = dataset(tmp_path, preparation=Preparation(resize=resize))
    require_aligned([pixels_of(data[0, i, scale]) for i in range(len(data))])


@pytest.mark.parametrize("scale", [1.0, 0.77, 1.3])
def test_tiles_are_aligned(tmp_path: Path, scale: float) -> None:
    tiles = TiledDataset(dataset(tmp_path), Tiling(WindowGrid(64, 64)), cache=False)
    require_aligned([pixels_of(tiles[0, i, scale]) for i in range(len(tiles))])


def object_offsets(values: Array, boxes: Array) -> list[NDArray[np.float64]]:
    """Return (y, x) of the image minus the box center, of boxes in full view."""
    measured = []
    for left, top, right, bottom in boxes:
        low, high = np.floor([top, left]).astype(int) - 3, np.ceil([bottom, right]).astype(int) + 3
        if (low < 0).any() or (high > values.shape[:2]).any():
            continue
        part = values[low[0] : high[0], low[1] : high[1]]
        measured.append(centroid(part) + low - [(top + bottom) / 2, (left + right) / 2])
    return measured


@pytest.mark.parametrize("size", [None, (71, 90), (150, 173), (71, 200)])
def test_sliding_windows_lie_where_their_geometry_says(size: tuple[int, int] | None) -> None:
    preparation = Preparation(3, None if size is None else Resize(*size, keep_ratio=False))
    measured = []
    for seed in range(15):
        image, target = scene(seed)
        prepared = preparation.open_image(image)
        for tile in WindowGrid(64, 64).make_tiles(prepared.size):
            values, geometry = prepared.read_window(tile)
            boxes = geometry.boxes_to_input(target.boxes).numpy()
            measured += object_offsets(values[:, :, 0], boxes)
    assert len(measured) >= 60
    assert np.abs(np.mean(measured, axis=0)).max() <= LIMIT


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_views_lie_where_their_geometry_says(scale: float, *, is_mirrored: bool) -> None:
    """Boxes into the view, and dense values back to the original, from tensors and arrays."""
    preparation = Preparation(3, Resize(90, 113), scale=scale)
    into, back = [], []
    for seed in range(15):
        image, target = scene(seed)
        made = InputImage(*preparation.prepare_image(image))
        made = made.flip() if is_mirrored else made
        sample = Sample(as_tensor(made.pixels), made.geometry, seed, "scene", Target())
        batch = collate([sample])
        view, geometry = batch.images[0], batch.geometries[0]
        assert target.boxes is not None
        boxes = geometry.boxes_to_input(target.boxes).numpy()
        into += object_offsets(view[0].numpy(), boxes)
        for dense in (view[:1], view[:1].numpy()):
            original = np.asarray(geometry.map_to_original(dense))[0]
            back += object_offsets(original, target.boxes.numpy())
    for measured in (into, back):
        assert len(measured) >= 60
        assert np.abs(np.mean(measured, axis=0)).max() <= LIMIT


@pytest.mark.parametrize("size", [SIZE, (140, 130)])
def test_pasted_objects_are_aligned(size: tuple[int, int]) -> None:
    """Also after both were resized, and into an image of another size."""
    crop = Augmentation([{"RandomResizedCrop": {"size": [93, 117], "scale": [0.7, 1.0]}}])
    samples = []
    for seed in range(2 * SEEDS):
        source = crop(*scene(seed), seed)
        empty = Target(
            torch.zeros(0, 4),
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.bool),
            InstanceMasks.from_bitmaps([], []),
            torch.zeros(size, dtype=torch.int64),
        )
        blank = np.zeros((*size, 3), np.float32)
        samples.append(CopyPaste(fraction=0.8)((blank, empty), source, np.random.default_rng(seed)))
    require_aligned(samples)


def test_boxes_follow_a_geometry_as_pixels_do() -> None:
    """Edges at whole numbers: the box of the image is the box of the sample."""
    geometry = Geometry.from_resize(SIZE, (71, 200))
    edges = torch.tensor([[0.0, 0.0, SIZE[1], SIZE[0]]])
    assert geometry.boxes_to_input(edges).tolist() == [[0.0, 0.0, 200.0, 71.0]]
