"""COCO files with random damage: the reader, the doctor and its repair take or refuse them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.data.doctor.repair import repair
from resnet_tasks.errors import DataError
from tests.support.coco_contents import build_content
from tests.support.damage import damaged_json, outcomes


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
def test_damaged_files_are_used_or_refused(use: Callable[[Path], None], tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / f"{name}.png")
    file = tmp_path / "train.json"

    def on_file(data: bytes) -> None:
        file.write_bytes(data)
        use(file)

    good = json.dumps(build_content()).encode()
    on_file(good)
    outcomes(good, on_file, damaged_json, 120, use.__name__)
