"""Positions, ids and files of images."""

from __future__ import annotations

from pathlib import Path

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


def test_selected_images_keep_files_and_ids(tmp_path: Path) -> None:
    index = ImageIndex([coco(tmp_path / name) for name in ("one", "two")])
    some = index.select([4, 0, 5])
    assert len(some) == 3
    assert [some.locate(i) for i in range(3)] == [(1, 1), (0, 0), (1, 2)]
    assert [some.image_id(i) for i in range(3)] == ["train-2/2", "train-1/1", "train-2/3"]
    twice = some.select([2, 2])
    assert [twice.locate(i) for i in range(2)] == [(1, 2), (1, 2)]
