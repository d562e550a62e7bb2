"""COCO files with random damage: the reader, the doctor and its repair take or refuse them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.data.doctor.repair import repair
from resnet_tasks.errors import DataError
from tests.support.damage import FULL, MANY, damaged_json, outcomes, told


def content() -> dict[str, Any]:
    """Of everything that a file may hold, one."""
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 8, 6], "area": 48}
    annotation |= {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 8]], "truncated": 0.5}
    lengths = {"size": [30, 40], "counts": [600, 100, 500]}
    packed = {"size": [30, 40], "counts": "P16h00000000000000Pm0"}
    image = {"id": 7, "file_name": "a.png", "height": 30, "width": 40, "group": "p"}
    image |= {"sem_seg_file_name": "a.png", "spacing": [0.5, 0.5]}
    return {
        "info": {"annotated": ["boxes", "masks"], "images_root": "."},
        "images": [image, image | {"id": 8, "file_name": "b.png"}],
        "annotations": [
            annotation,
            annotation | {"id": 2, "segmentation": lengths, "iscrowd": 1},
            annotation | {"id": 3, "segmentation": packed, "category_id": 5},
            {"id": 4, "image_id": 8, "category_id": 2},
        ],
        "categories": [{"id": 2, "name": "car"}, {"id": 5, "name": "bus", "isthing": 0}],
    }


def read(file: Path) -> None:
    coco = read_coco(file)
    for image in coco.images:
        for annotation in coco.annotations[image.id]:
            if annotation.segmentation is not None:
                decode_mask(annotation.segmentation, image.height, image.width)


def checked(file: Path) -> None:
    """The doctor never refuses; a file that cannot be used is counted as refused."""
    if not check_coco(file).is_usable:
        raise DataError("unusable")


def repaired(file: Path) -> None:
    """What was repaired can be read."""
    out = file.with_name("repaired.json")
    for each in (out, file.with_name("repaired.json.changes.json")):
        each.unlink(missing_ok=True)
    repair(file, out)
    read(out)


@pytest.mark.parametrize("use", [read, checked, repaired], ids=lambda use: use.__name__)
@pytest.mark.parametrize("cases", [120, pytest.param(MANY, marks=FULL)])
def test_damaged_files_are_used_or_refused(
    use: Callable[[Path], None], cases: int, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    for name in "ab":
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / f"{name}.png")
    file = tmp_path / "train.json"

    def on_file(data: bytes) -> None:
        file.write_bytes(data)
        use(file)

    good = json.dumps(content()).encode()
    on_file(good)
    found: Counter[str] = outcomes(good, on_file, damaged_json, cases, use.__name__)
    if cases == MANY:
        tell(told(f"COCO {use.__name__}", found))
