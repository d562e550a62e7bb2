"""Tiles as samples: visible areas by hand, the way back, masks and maps, empty ones rationed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.masks import decode_mask, decode_mask_in_tile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling, clip_boxes_to_tile
from resnet_tasks.data.images.intensity import Intensity, Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import Tile, WindowGrid
from resnet_tasks.data.sampling.dataset_protocols import HasEpochs
from resnet_tasks.data.sampling.loaders import make_loader
from resnet_tasks.data.sampling.sample_keys import Key
from resnet_tasks.errors import DataError, ImageError
from tests.support.mask_stacks import to_stack

SIZE = (128, 192)
CATEGORIES = [{"id": 1, "name": "car"}, {"id": 2, "name": "background"}, {"id": 5, "name": "ship"}]
FIELDS = ("boxes", "semantic", "masks")


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def written(folder: Path, objects: dict[int, list[Any]], *, maps: bool = False) -> Any:
    """Images of noise; objects by image as (category, x, y, side, iscrowd)."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, present in objects.items():
        np.save(folder / f"{i}.npy", rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
        images.append({"id": i, "file_name": f"{i}.npy", "height": SIZE[0], "width": SIZE[1]})
        if maps:
            values = np.zeros(SIZE, np.uint8)
            for category, x, y, side, _ in present:
                values[y : y + side, x : x + side] = category
            Image.fromarray(values).save(folder / f"{i}.png")
            images[-1]["sem_seg_file_name"] = f"{i}.png"
            continue
        for category, x, y, side, crowd in present:
            found = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
            box = {"bbox": [x, y, side, side], "area": side**2, "iscrowd": crowd}
            annotations.append({**found, **box, "segmentation": square(x, y, side)})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    if maps:
        content["info"] = {"annotated": ["semantic"]}
    (folder / "a.json").write_text(json.dumps(content))
    return read_coco(folder / "a.json")


def tiled(file: Any, cut: Tiling | None = None, **options: Any) -> TiledDataset:
    images = CocoDataset([file], categories=file.categories, fields=FIELDS, **options)
    return TiledDataset(images, cut or Tiling(WindowGrid(64, 64, 0.0), empty=None))


# --- What is visible


def test_visible_parts_by_hand() -> None:
    boxes = np.asarray(
        [
            [10, 10, 30, 30],  # inside
            [54, 0, 74, 20],  # half of it
            [60, 60, 80, 80],  # a corner of 4 x 4 of 20 x 20
            [64, 0, 80, 20],  # beside it
            [-10, -10, 10, 10],  # a quarter
        ],
        np.float64,
    )
    cut, share = clip_boxes_to_tile(boxes, Tile(0, 0, 64, 64))
    assert share.tolist() == [1.0, 0.5, 16 / 400, 0.0, 0.25]
    assert cut[1].tolist() == [54, 0, 64, 20]
    assert cut[4].tolist() == [0, 0, 10, 10]


def test_cut_objects_count_by_their_visible_area(tmp_path: Path) -> None:
    # In the first tile: whole; 6 of 20 columns (0.3); 5 of 20 (0.25); a crowd; and one outside.
    objects = [(1, 5, 5, 20, 0), (5, 58, 30, 20, 0), (1, 59, 5, 20, 0), (5, 0, 40, 10, 1)]
    data = tiled(written(tmp_path, {7: [*objects, (1, 100, 100, 20, 0)]}))
    assert len(data) == 2 * 3
    target = data[0].target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.ignore is not None
    assert target.boxes.tolist() == [
        [5, 5, 25, 25],
        [58, 30, 64, 50],
        [59, 5, 64, 25],
        [0, 40, 10, 50],
    ]
    assert target.labels.tolist() == [0, 2, 0, 2]
    assert target.ignore.tolist() == [False, False, True, True]  # cut too much; a crowd
    # In the tile beside it the other parts lie, at its own coordinates.
    target = data[1].target
    assert target.boxes is not None
    assert target.boxes.tolist() == [[0, 30, 14, 50], [0, 5, 15, 25]]
    assert target.ignore is not None
    assert not target.ignore.any()
    assert data[0].image_id == "7@0,0"
    assert data[4].image_id == "7@64,64"
    # Nothing visible is nothing there, not something unknown.
    target = data[2].target
    assert target.boxes is not None
    assert target.boxes.shape == (0, 4)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.25])
def test_boxes_lead_back_to_the_image(tmp_path: Path, scale: float) -> None:
    data = tiled(
        written(tmp_path, {1: [(1, 70, 70, 30, 0)]}), Tiling(WindowGrid(64, 96, 0.3), 0.3, None)
    )
    seen = 0
    for position in range(len(data)):
        index, tile = data.locate(position)
        sample = data[0, position, scale]
        assert sample.image.shape[1:] == (round(64 * scale), round(96 * scale))
        assert sample.geometry.input_size == sample.image.shape[1:]
        assert sample.geometry.original_size == SIZE
        assert index == 0
        boxes = sample.target.boxes
        assert boxes is not None
        if not len(boxes):
            continue
        seen += 1
        back = sample.geometry.boxes_to_original(boxes)
        cut, _ = clip_boxes_to_tile(np.asarray([[70.0, 70, 100, 100]]), tile)
        assert torch.allclose(back, torch.from_numpy(cut).float(), atol=1e-4)
    assert seen >= 4


def test_pixels_are_those_of_the_image(tmp_path: Path) -> None:
    file = written(tmp_path, {1: [(1, 70, 70, 30, 0)]})
    preparation = Preparation(intensity=Intensity("percentile"))
    data = tiled(file, preparation=preparation)
    whole = CocoDataset([file], categories=file.categories, preparation=preparation)[0]
    for position in range(len(data)):
        _, tile = data.locate(position)
        assert torch.equal(data[position].image, whole.image[:, tile.rows, tile.columns])


# --- Masks and maps


def test_masks_and_drawn_maps_are_cut_like_the_image(tmp_path: Path) -> None:
    objects = [(1, 40, 40, 60, 0), (5, 50, 50, 30, 0), (1, 150, 90, 38, 0)]
    file = written(tmp_path, {1: objects})
    data = tiled(file, Tiling(WindowGrid(64, 64, 0.2), 0.0, None))
    whole = CocoDataset([file], categories=file.categories, fields=FIELDS)[0].target
    assert whole.semantic is not None
    assert whole.masks is not None
    for position in range(len(data)):
        _, tile = data.locate(position)
        target = data[position].target
        assert target.semantic is not None
        assert target.masks is not None
        assert torch.equal(target.semantic, whole.semantic[tile.rows, tile.columns])
        shown = to_stack(whole.masks, SIZE)[:, tile.rows, tile.columns]
        cut = to_stack(target.masks, tile.size)
        assert torch.equal(cut, shown[shown.flatten(1).any(dim=1)])


def test_a_semantic_map_is_cut_like_the_image(tmp_path: Path) -> None:
    file = written(tmp_path, {1: [(1, 40, 40, 60, 0), (5, 50, 50, 30, 0)]}, maps=True)
    data = tiled(file, Tiling(WindowGrid(64, 96, 0.1), 0.3, None))
    whole = torch.from_numpy(read_semantic_map(tmp_path / "1.png", file.categories, SIZE))
    for position in range(len(data)):
        _, tile = data.locate(position)
        target = data[position].target
        assert target.boxes is None
        assert target.semantic is not None
        assert torch.equal(target.semantic, whole[tile.rows, tile.columns])


@pytest.mark.parametrize("seed", range(8))
def test_a_part_of_a_mask_is_that_part_of_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = 90, 140
    polygons = [
        (rng.uniform(-15, 155, (int(rng.integers(3, 9)), 2))).ravel().tolist()
        for _ in range(int(rng.integers(1, 4)))
    ]
    runs = rng.integers(0, 60, 600)
    runs = runs[np.cumsum(runs) < height * width].tolist()
    rle = {"size": [height, width], "counts": [*runs, height * width - sum(runs)]}
    for segmentation in (polygons, rle):
        whole = decode_mask(segmentation, height, width)
        for _ in range(10):
            top, left = int(rng.integers(0, height - 1)), int(rng.integers(0, width - 1))
            tile = Tile(
                top,
                left,
                int(rng.integers(1, height - top + 1)),
                int(rng.integers(1, width - left + 1)),
            )
            part = decode_mask_in_tile(segmentation, height, width, tile)
            assert np.array_equal(part, whole[tile.rows, tile.columns])


# --- Which tiles come


def order(data: TiledDataset, epoch: int) -> list[int]:
    batches = data.epoch_sampler.make_batches(len(data), 4, seed=3, epoch=epoch)
    return [key[1] for batch in batches for key in batch]


def test_empty_tiles_are_rationed_by_epoch(tmp_path: Path) -> None:
    # 20 images of 6 tiles, one of them with a car: 20 full tiles, 100 empty ones.
    objects = {i: [(1, 70, 5, 20, 0)] for i in range(1, 21)}
    file = written(tmp_path, objects)
    data = tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=0.5))
    assert isinstance(data, HasEpochs)
    assert data.num_empty == 100
    assert (
        "120 tiles of 64 x 64 (width x height), 100 of them empty; 30 per epoch" in data.describe()
    )
    full = {position for position in range(120) if position % 6 == 1}
    seen: Counter[int] = Counter()
    for epoch in range(40):
        positions = order(data, epoch)
        assert positions == order(data, epoch)
        assert len(positions) == 30
        assert len(set(positions)) == 30
        assert full <= set(positions)
        seen.update(set(positions) - full)
    assert order(data, 0) != order(data, 1)
    assert len(seen) == 100  # all come, in the course of epochs
    assert max(seen.values()) <= 12  # each some 4 times
    assert sorted(order(tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=0.0)), 0)) == sorted(full)
    assert len(order(tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=None)), 0)) == 120
    assert len(order(tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=99.0)), 0)) == 120


def test_what_counts_as_empty(tmp_path: Path) -> None:
    """A sliver, a crowd, and pixels of a category named background are nothing to learn."""
    objects = [(1, 59, 5, 20, 0), (5, 130, 5, 40, 1)]
    data = tiled(written(tmp_path, {1: objects}), Tiling(WindowGrid(64, 64, 0.0), empty=1.0))
    assert data.num_empty == 5  # only the second tile shows enough of the car
    (tmp_path / "maps").mkdir()
    objects = [(2, 0, 0, 60, 0), (5, 130, 5, 4, 0)]
    file = written(tmp_path / "maps", {1: objects}, maps=True)
    data = tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=1.0))
    assert data.num_empty == 5
    assert sorted(order(data, 0))[-1] >= 2
    assert len(order(data, 0)) == 2


def test_nothing_to_learn_is_told(tmp_path: Path) -> None:
    file = written(tmp_path, {1: [], 2: []})
    with pytest.raises(DataError, match=r"none of the 12 tiles of .*a\.json contains an object"):
        tiled(file, Tiling(WindowGrid(64, 64, 0.0), empty=0.1))
    assert len(tiled(file)) == 12
    with pytest.raises(DataError, match="resized; remove either"):
        tiled(file, preparation=Preparation(resize=Resize(64, 64)))


# --- Samples


def test_workers_and_epochs(tmp_path: Path) -> None:
    """A sample is a function of (seed, epoch, tile), made here or in a worker."""
    file = written(tmp_path, {i: [(1, 40, 40, 60, 0)] for i in (1, 2)})
    flips = Augmentation([{"HorizontalFlip": {"p": 0.5}}, {"RandomBrightnessContrast": {}}])
    data = tiled(file, augmentation=SampleAugmentation(flips, seed=5))
    batches: list[list[Key]] = [[(2, 3), (2, 1), (2, 8)], [(2, 11), (2, 4)]]
    here, there = (list(make_loader(data, batches, workers=workers)) for workers in (0, 2))
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one.images, two.images)
        assert one.image_ids == two.image_ids
        assert one.seeds == two.seeds
    again, other = data[2, 3], data[3, 3]
    assert torch.equal(again.image, data[2, 3].image)
    assert not torch.equal(again.image, other.image)
    assert again.seed != other.seed


def test_decoded_images_are_kept_where_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, {i: [(1, 40, 40, 60, 0)] for i in range(1, 6)})
    opened: list[int] = []
    prepared = CocoDataset.prepare_image
    monkeypatch.setattr(
        CocoDataset, "prepare_image", lambda self, i: opened.append(i) or prepared(self, i)
    )
    images = CocoDataset([file], categories=file.categories)
    for cache, expected in ((True, 5), ("auto", 5), (False, 10)):
        opened.clear()
        data = TiledDataset(images, Tiling(WindowGrid(64, 64, 0.0), empty=None), cache=cache)
        for _ in range(2):
            for position in range(len(data)):
                data[position]
        assert len(opened) == expected


def test_tiles_of_a_unreadable_image_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    file = written(tmp_path, {i: [(1, 40, 40, 60, 0)] for i in (1, 2)})
    (tmp_path / "2.npy").write_bytes(b"\x93NUMPY")
    images = CocoDataset([file], categories=file.categories)
    cut = Tiling(WindowGrid(64, 64, 0.0), empty=None)
    with pytest.raises(ImageError, match=r"2\.npy cannot be read"):
        list(make_loader(TiledDataset(images, cut), [[0, 8]]))
    skipping = CocoDataset([file], categories=file.categories, unreadable_image_limit=0.5)
    data = TiledDataset(skipping, cut)
    (batch,) = make_loader(data, [[0, 8]])
    assert batch.image_ids == ("1@0,0",)
    assert [each.image_id for each in batch.left_out] == [2]
    assert data.max_unreadable_images == 1
