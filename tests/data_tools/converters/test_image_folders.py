"""Folders of classes: splits kept or made, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools.catalog import convert
from data_tools.converters.image_folders import convert_image_folders
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.errors import DataError


def images(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), 7, np.uint8)).save(file)
    return root


def labels(file: Path) -> dict[str, str]:
    """File name -> class."""
    coco = read_coco(file)
    assert coco.problems == ()
    assert coco.annotated == {"image"}
    names = coco.categories.names
    return {each.file_name: names[coco.annotations[each.id][0].category] for each in coco.images}


def test_native_splits_are_kept_and_share_their_classes(tmp_path: Path) -> None:
    source = images(
        tmp_path / "in", "train/dog/a.png", "train/dog/deep/b.png", "train/cat/a.png",
        "valid/owl/c.png", "test/cat/d.PNG",
    )  # fmt: skip
    (source / "train/dog/notes.txt").write_text("x")
    (source / "train/.hidden").mkdir()
    summaries = convert_image_folders(source, tmp_path / "out")
    assert [each.split for each in summaries] == ["train", "val", "test"]
    assert [each.images for each in summaries] == [3, 1, 1]
    assert summaries[0].objects == {"cat": 1, "dog": 2, "owl": 0}
    assert labels(tmp_path / "out/train.json") == {
        "train/cat/a.png": "cat",
        "train/dog/a.png": "dog",
        "train/dog/deep/b.png": "dog",
    }
    assert labels(tmp_path / "out/val.json") == {"valid/owl/c.png": "owl"}
    val = read_coco(tmp_path / "out/val.json")
    assert [(c.id, c.name) for c in val.categories.categories] == [
        (1, "cat"),
        (2, "dog"),
        (3, "owl"),
    ]
    sample = CocoDataset([val], categories=val.categories)[0]
    assert sample.target.image_labels is not None
    assert sample.target.image_labels.tolist() == [2]
    assert sample.image.shape == (3, 4, 6)


def test_a_share_of_every_class_goes_to_val(tmp_path: Path) -> None:
    names = [
        f"{kind}/{i}.png" for kind, count in (("a", 10), ("b", 2), ("c", 1)) for i in range(count)
    ]
    source = images(tmp_path / "in", *names)
    made = []
    for seed, out in ((0, "x"), (0, "y"), (1, "z")):
        folder = tmp_path / out
        train, val = convert_image_folders(source, folder, val_fraction=0.3, seed=seed)
        assert train.objects == {"a": 7, "b": 1, "c": 1}
        assert val.objects == {"a": 3, "b": 1, "c": 0}
        both = [set(labels(folder / f"{split}.json")) for split in ("train", "val")]
        assert both[0] | both[1] == set(names)
        assert not both[0] & both[1]
        made.append(both[1])
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_without_splits_everything_is_train(tmp_path: Path) -> None:
    source = images(tmp_path / "in", "test/a.png", "train/b.png")  # classes of such names
    (summary,) = convert_image_folders(source, tmp_path / "out")
    assert summary.objects == {"test": 1, "train": 1}


def test_unreadable_images_are_listed_and_the_command_s_card_says_so(tmp_path: Path) -> None:
    source = images(tmp_path / "in", "a/x.png", "b/y.png")
    (source / "b/broken.jpg").write_bytes(b"no image")
    card = convert("image-folders", source, tmp_path / "out", copy_images=True)
    assert card.splits[0].images == 2
    (skipped,) = card.splits[0].skipped
    assert (skipped.file, skipped.description) == ("b/broken.jpg", "b")
    assert "cannot be read" in skipped.reason
    assert "broken.jpg" in (tmp_path / "out/data_card.md").read_text()
    assert (tmp_path / "out/images/train/a/x.png").is_file()
    first = json.loads((tmp_path / "out/train.json").read_text())["annotations"][0]
    assert first == {"id": 1, "image_id": 1, "category_id": 1}


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ((), {}, "contains no image"),
        (("a.png",), {}, "contains no image"),
        (("a/x.png", "b/deep/"), {}, "the folders b contain no image"),
        (("train/a/x.png", "val/a/x.png", "other/a/x.png"), {}, "and also other;"),
        (
            ("train/a/x.png", "val/a/x.png"),
            {"val_fraction": 0.2},
            r"already has splits \(train, val\); remove",
        ),
        (("a/x.png",), {"val_fraction": 1.0}, "val_fraction is 1.0"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, names: tuple[str, ...], options: dict[str, float], said: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in names:
        if name.endswith("/"):
            (source / name).mkdir(parents=True)
        else:
            images(source, name)
    with pytest.raises(DataError, match=said):
        convert_image_folders(source, tmp_path / "out", **options)
    with pytest.raises(DataError, match=r"gone is not a folder: download the dataset"):
        convert_image_folders(tmp_path / "gone", tmp_path / "out2")
