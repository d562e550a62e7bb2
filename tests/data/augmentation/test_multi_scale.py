"""Batches at several scales: which, how large, and where the objects are then."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.assemble.datasets import build_dataset
from resnet_tasks.assemble.split_files import read_split
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.loaders import get_shard, make_loader
from resnet_tasks.errors import RecipeError
from resnet_tasks.recipe.load import load_recipe

SCALES = (0.75, 1.0, 1.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 128 x 64 (width x height) with a bright square at 32..64 x 16..48."""
    for i in (1, 2):
        pixels = np.zeros((64, 128, 3), np.uint8)
        pixels[16:48, 32:64] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    square = [32, 16, 64, 16, 64, 48, 32, 48]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 128} for i in (1, 2)],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [32, 16, 32, 32],
                "area": 1024,
                "iscrowd": 0,
                "segmentation": [square],
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path


def dataset(folder: Path, **options: object) -> CocoDataset:
    file = read_coco(folder / "train.json")
    return CocoDataset(
        [file],
        categories=file.categories,
        preparation=Preparation(resize=Resize(64, 128)),
        **options,  # type: ignore[arg-type]
    )


def test_objects_and_pixels_follow_the_scale(folder: Path) -> None:
    sample = dataset(folder)[3, 0, 1.25]
    assert sample.image.shape == (3, 80, 160)
    assert sample.target.boxes is not None
    assert sample.target.boxes.tolist() == [[40.0, 20.0, 80.0, 60.0]]
    assert sample.target.semantic is not None
    inside = (sample.target.semantic == 0).nonzero()
    assert inside.min(0).values.tolist() == [20, 40]
    assert inside.max(0).values.tolist() == [59, 79]
    back = sample.geometry.boxes_to_original(sample.target.boxes)
    assert back.tolist() == [[32.0, 16.0, 64.0, 48.0]]


def test_every_scale_is_decoded_from_the_file_and_kept_apart(folder: Path) -> None:
    data = dataset(folder, cache=True)
    sizes = [tuple(data[0, 0, scale].image.shape[1:]) for scale in (0.5, 1.0, 2.0, 0.5)]
    assert sizes == [(32, 64), (64, 128), (128, 256), (32, 64)]
    assert torch.equal(data[0, 0, 1.0].image, data[0].image)
    assert torch.equal(data[0, 0, 2.0].image, dataset(folder, cache=False)[0, 0, 2.0].image)


def scales_of(epoch: int, *, seed: int = 0, process: int = 0, processes: int = 1) -> list[float]:
    batches = EpochSampler(scales=SCALES).make_batches(60, 2, seed=seed, epoch=epoch)
    found = []
    for keys in (get_shard(each, process, processes) for each in batches):
        scales = {key[2] for key in keys}
        assert len(scales) == 1, "one scale in a batch"
        found.append(scales.pop())
    return found


def test_a_scale_is_a_function_of_seed_epoch_and_batch() -> None:
    first = scales_of(0)
    assert first == scales_of(0)
    assert first == scales_of(0, process=1, processes=2)
    assert first != scales_of(1)
    assert first != scales_of(0, seed=1)
    drawn = Counter(scale for epoch in range(20) for scale in scales_of(epoch))
    # 600 draws of three: 200 each, within four standard deviations (11.5).
    assert set(drawn) == set(SCALES)
    assert all(abs(count - 200) < 47 for count in drawn.values())


def test_padded_sizes_stay_few(folder: Path) -> None:
    sampler = EpochSampler(scales=SCALES)
    keys = [sampler.make_batches(2, 2, seed=0, epoch=epoch)[0] for epoch in range(12)]
    sizes = {batch.padded_size for batch in make_loader(dataset(folder), keys)}
    assert sizes == {(64, 96), (64, 128), (96, 160)}


def test_recipes_scale_training_only(folder: Path) -> None:
    text = f"""
data:
  root: {folder}
  train: [{{annotations: train.json}}]
  val: [{{annotations: train.json}}]
  allow_leaks: true
  resize: {{height: 64, width: 128}}
  scales: [0.75, 1.25]
heads: {{scene: {{type: unet}}}}
"""
    (folder / "mine.yaml").write_text(text)
    recipe = load_recipe(folder / "mine.yaml")
    files = read_split(recipe, "train")
    train = build_dataset(recipe, files, files[0].categories, training=True)
    val = build_dataset(recipe, files, files[0].categories)
    assert train.epoch_sampler.scales == (0.75, 1.25)
    (keys,) = val.epoch_sampler.make_batches(2, 2, seed=0, epoch=0)
    assert sorted(keys) == [(0, 0, 1.0, 0), (0, 1, 1.0, 0)]
    assert val[0].image.shape == (3, 64, 128)
    with pytest.raises(RecipeError, match=r"data\.scales\.0: got 0; allowed is a number"):
        load_recipe(folder / "mine.yaml", ["data.scales=[0]"])
