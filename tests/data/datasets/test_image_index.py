"""Positions, ids and files of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.image_index import ImageIndex
from tests.support.hand_written import IDENTITY, coco


def test_repeated_ids_are_made_unique(tmp_path: Path) -> None:
    files = [coco(tmp_path, name="a.json"), coco(tmp_path, name="b.json")]
    data = CocoDataset(files, categories=files[0].categories)
    assert [data.image_id(i) for i in (0, 3)] == ["a/1", "b/1"]
    assert data[4].image_id == data.truth(4, IDENTITY).image_id == "b/2"
    same = [coco(tmp_path / name) for name in ("one", "two")]
    ids = [CocoDataset(same, categories=files[0].categories).image_id(i) for i in range(6)]
    assert ids == [f"train-{file}/{image}" for file in (1, 2) for image in (1, 2, 3)]


def test_values_of_files_reach_the_images_that_are_left(tmp_path: Path) -> None:
    index = ImageIndex([coco(tmp_path / name) for name in ("one", "two")])
    assert index.expand_by_file([1.0, 2.5]).tolist() == [1, 1, 1, 2.5, 2.5, 2.5]
    some = index.select([4, 0, 5])
    assert len(some) == 3
    assert some.expand_by_file([1.0, 2.5]).tolist() == [2.5, 1, 2.5]
    assert [some.locate(i) for i in range(3)] == [(1, 1), (0, 0), (1, 2)]
    assert [some.image_id(i) for i in range(3)] == ["train-2/2", "train-1/1", "train-2/3"]
    twice = some.select([2, 2])
    assert [twice.locate(i) for i in range(2)] == [(1, 2), (1, 2)]


def test_what_images_show_is_told_of_all_of_them(tmp_path: Path) -> None:
    index = ImageIndex([coco(tmp_path / name) for name in ("one", "two")]).select([5, 0])
    rows, found, total = index.list_image_categories()
    pairs = sorted(zip(rows.tolist(), found.tolist(), strict=True))
    assert total == 6
    assert [pair for pair in pairs if pair[0] in (2, 5)] == [(2, 1), (5, 1)]  # the car of image 3
    assert {row for row, _ in pairs} == {0, 2, 3, 5}  # images 2 of both files show nothing
    assert index.select_values(np.arange(6.0)).tolist() == [5, 0]
