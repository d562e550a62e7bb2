from pathlib import Path

import pytest

from data_tools.reading.coco_splits import find_coco_splits
from resnet_tasks.errors import DataError


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["instances_default.json"], {"train": 0}),
        (["annotations/instances_default.json"], {"train": 0}),
        (["result.json"], {"train": 0}),
        (["trainval.json"], {"train": 0}),
        (["my_train_v2.json"], {"train": 0}),
        (["training.json", "validation.json"], {"train": 0, "val": 1}),
        (["valid.json", "testing.json"], {"val": 0, "test": 1}),
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json"],
            {"train": 0, "val": 1},
        ),
        (["Training/labels.json", "test/labels.json"], {"train": 0, "test": 1}),
        (["Train/a.json", "VAL/a.json"], {"train": 0, "val": 1}),
        (["val.json", "val/a.json", "valid/a.json"], {"val": 0}),
        (
            ["annotations/instances_train2017.json", "annotations/captions_train2017.json"],
            {"train": 0},
        ),
        (
            ["panoptic_val.json", "captions_val.json", "person_keypoints_val.json"],
            {"val": 2},
        ),
        (["stuff_train.json", "panoptic_train.json", "test.json"], {"train": 0, "test": 2}),
        (["captions_train.json"], {"train": 0}),
        (["train.json", "._train.json", ".cache/val.json"], {"train": 0}),
    ],
)
def test_usual_names(names: list[str], splits: dict[str, int], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = {split: tmp_path / names[index] for split, index in splits.items()}
    assert find_coco_splits(tmp_path) == expected


def test_single_files(tmp_path: Path) -> None:
    for name, split in (
        ("result.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("a/instances_test2017.json", "test"),
        ("train_val.json", "train"),
    ):
        assert find_coco_splits(tmp_path / name) == {split: tmp_path / name}


def test_several_files_are_not_guessed(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"contains none of train\.json.*found a\.json, b\.json"):
        find_coco_splits(tmp_path)
    for name in ("train/a.json", "train/b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    message = r"a\.json and .*b\.json are both in the folder .*with annotations={train: FILE}"
    with pytest.raises(DataError, match=message):
        find_coco_splits(tmp_path)


def test_two_folders_of_one_split_are_named(tmp_path: Path) -> None:
    for name in ("val/a.json", "valid/a.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"val and .*valid are both named after the split val;"):
        find_coco_splits(tmp_path)
