"""A changed file is noticed by its size or its blocks, and a copy of the dataset is the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.data_fingerprint import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    FileFingerprint,
)

Change = Callable[[Path], object]


def write_split(folder: Path) -> Path:
    """Write three images, two of them with a label map."""
    rng = np.random.default_rng(3)
    images: list[dict[str, Any]] = []
    for number, name in enumerate(("a", "b", "c")):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        record = {"id": number, "file_name": f"{name}.png", "height": 40, "width": 50}
        if name != "c":
            Image.fromarray(pixels[..., 0] % 2).save(folder / f"{name}_map.png")
            record["sem_seg_file_name"] = f"{name}_map.png"
        images.append(record)
    content = {
        "info": {"images_root": "images"},
        "images": images,
        "annotations": [],
        "categories": [{"id": 1, "name": "x"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return folder / "train.json"


def compute(folder: Path) -> tuple[FileFingerprint, CocoFile]:
    file = read_coco(folder / "train.json")
    return FileFingerprint.from_file(file, folder), file


def paint(path: Path) -> None:
    """Change one value; the size in bytes may stay the same."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels.flat[0] ^= 1
    Image.fromarray(pixels).save(path)


def test_a_copy_with_other_dates_is_the_same(tmp_path: Path) -> None:
    write_split(tmp_path / "data")
    before, _ = compute(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1e9, 1e9))
    now, file = compute(tmp_path / "copy")
    assert now == before
    assert before.describe_changes(now, file) == []
    assert before.name == "train.json"
    assert [len(text) for text in (before.annotations, before.images, before.label_maps)] == [
        *(64, 3 * 2 * DIGEST_BYTES, 2 * 2 * DIGEST_BYTES),
    ]
    assert FileFingerprint(**json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda folder: paint(folder / "images/b.png"),
            ["1 image of 3 of train.json differs (b.png)"],
        ),
        (
            lambda folder: [paint(folder / f"images/{name}.png") for name in "ac"],
            ["2 images of 3 of train.json differ (such as a.png)"],
        ),
        (
            lambda folder: (folder / "images/c.png").unlink(),
            ["1 image of 3 of train.json differs (c.png)"],
        ),
        (
            lambda folder: paint(folder / "a_map.png"),
            ["1 label map of 2 of train.json differs (a_map.png)"],
        ),
        (
            lambda folder: (folder / "train.json").write_text(
                (folder / "train.json").read_text() + "\n"
            ),
            ["train.json has another content"],
        ),
    ],
)
def test_changed_files_are_named(change: Change, expected: list[str], tmp_path: Path) -> None:
    write_split(tmp_path)
    before, _ = compute(tmp_path)
    change(tmp_path)
    now, file = compute(tmp_path)
    assert before.describe_changes(now, file) == expected


def test_images_of_a_changed_list_are_compared_by_name(tmp_path: Path) -> None:
    path = write_split(tmp_path)
    before, _ = compute(tmp_path)
    content = json.loads(path.read_text())
    shutil.copy(tmp_path / "images/a.png", tmp_path / "images/d.png")
    content["images"].insert(0, {"id": 9, "file_name": "d.png", "height": 40, "width": 50})
    path.write_text(json.dumps(content))
    now, file = compute(tmp_path)
    assert before.describe_changes(now, file) == [
        "train.json has another content",
        "1 image of 3, now 4, of train.json differs (d.png)",
    ]
    content["images"] = content["images"][1:3]
    path.write_text(json.dumps(content))
    now, file = compute(tmp_path)
    assert before.describe_changes(now, file)[1] == (
        "of the 3, now 2, images of train.json, some were removed or are in another order"
    )


@pytest.mark.parametrize("position", [0, 3 * BLOCK_BYTES, -1])
def test_blocks_of_large_files_are_compared(position: int, tmp_path: Path) -> None:
    write_split(tmp_path)
    content = bytearray(6 * BLOCK_BYTES)
    (tmp_path / "images/a.png").write_bytes(content)
    before, _ = compute(tmp_path)
    content[position] = 1
    (tmp_path / "images/a.png").write_bytes(content)
    now, _ = compute(tmp_path)
    assert now.images != before.images
    (tmp_path / "images/a.png").write_bytes(bytes(6 * BLOCK_BYTES + 1))
    resized, _ = compute(tmp_path)
    assert resized.images != before.images


def test_a_pipe_in_place_of_an_image_does_not_block(tmp_path: Path) -> None:
    write_split(tmp_path)
    before, _ = compute(tmp_path)
    (tmp_path / "images/a.png").unlink()
    os.mkfifo(tmp_path / "images/a.png")
    now, file = compute(tmp_path)
    assert before.describe_changes(now, file) == ["1 image of 3 of train.json differs (a.png)"]
