"""Groups and images in two splits, found in parsed files and in names alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.splits.leaks import find_leak, read_image_names


def write(path: Path, *images: tuple[str, Any], **info: Any) -> Path:
    records = [
        {"id": i, "file_name": name, "height": 4, "width": 4, "group": group}
        for i, (name, group) in enumerate(images)
    ]
    content = {"info": info, "images": records, "categories": [{"id": 1, "name": "a"}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "annotations": []}))
    return path


def test_groups_and_images_that_are_in_both(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", ("x/1.png", "p1"), ("x/2.png", "p1"), ("x/3.png", None))
    second = write(
        tmp_path / "deep" / "b.json",
        ("2.png", "p2"),
        ("./3.png", 7),
        ("4.png", "p1"),
        ("5.png", None),
        images_root="../x",
    )
    images = [str((tmp_path / "x" / name).resolve()) for name in ("2.png", "3.png")]
    for read in (read_coco, read_image_names):
        files = [read(first)], [read(second)]
        leak = find_leak(*files)  # type: ignore[arg-type]
        assert leak.groups == {"p1": (2, 1)}
        assert list(leak.images) == images
        assert leak
        text = leak.describe("train", "val")
        assert text.startswith("1 group: 'p1' (2 in train, 1 in val); 2 images: ")
        assert not find_leak(*files[:1], [])


def test_many_are_counted_and_few_are_named(tmp_path: Path) -> None:
    names = [(f"{i}.png", f"g{i}") for i in range(9)]
    file = read_coco(write(tmp_path / "a.json", *names))
    text = find_leak([file], [file]).describe("train", "test")
    assert text.startswith("9 groups: 'g0' (1 in train, 1 in test), ")
    assert "'g4'" in text
    assert "'g5'" not in text
    assert "; 9 images: " in text


def test_what_cannot_be_read_is_not_compared(tmp_path: Path) -> None:
    assert read_image_names(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text('{"images": [{"id": 1}]}')
    assert read_image_names(tmp_path / "bad.json") is None
