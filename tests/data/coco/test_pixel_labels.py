"""Labels of pixels: read from maps, or drawn from instances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import IGNORED, UNLABELED, VOID
from resnet_tasks.structures.label_table import LabelTable
from tests.support.hand_written import CATEGORIES, IDENTITY, coco, made


def with_map(folder: Path, values: Any, categories: Any = None, dtype: Any = np.uint8) -> CocoFile:
    """One image of 8 x 12 with a semantic PNG, one without."""
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(values).astype(dtype)).save(folder / "map.png")
    images = []
    for i in (1, 2):
        Image.new("RGB", (12, 8)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 8, "width": 12})
    images[0]["sem_seg_file_name"] = "map.png"
    content = {"images": images, "categories": categories or CATEGORIES}
    (folder / "data.json").write_text(json.dumps(content))
    return read_coco(folder / "data.json")


def test_map_is_drawn_from_instances_small_ones_on_top(tmp_path: Path) -> None:
    semantic = made(coco(tmp_path))[0].target.semantic
    assert semantic is not None
    expected = torch.full((8, 12), UNLABELED)
    expected[0:6, 0:6] = 2
    expected[2:4, 2:4] = 0
    expected[4:8, 8:12] = 1
    assert torch.equal(semantic, expected)


def test_map_from_png(tmp_path: Path) -> None:
    values = np.full((8, 12), 90)
    values[0], values[1], values[2] = 0, 255, 3
    data = made(with_map(tmp_path, values))
    semantic = data[0].target.semantic
    assert semantic is not None
    assert semantic[:, 0].tolist() == [UNLABELED, VOID, 0, 2, 2, 2, 2, 2]
    truth = data.truth(0, LabelTable(("background", "road"), (IGNORED, IGNORED, 1), 0)).semantic
    assert truth is not None
    assert truth[:, 0].tolist() == [0, VOID, VOID, 1, 1, 1, 1, 1]


def test_image_without_a_map_of_its_own_is_not_annotated(tmp_path: Path) -> None:
    data = made(with_map(tmp_path, np.full((8, 12), 3)))
    assert data[1].target.semantic is None
    assert data.truth(1, IDENTITY).semantic is None


def test_category_zero_wins_over_unlabeled(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "sky"}, {"id": 255, "name": "last"}]
    semantic = made(with_map(tmp_path, [[0] * 6 + [255] * 6] * 8, categories))[0].target.semantic
    assert semantic is not None
    assert semantic[0].tolist() == [0] * 6 + [1] * 6


def test_sixteen_bit_map(tmp_path: Path) -> None:
    categories = [{"id": 300, "name": "a"}, {"id": 255, "name": "b"}]
    values = [[300, 255, 0, 65535] * 3] * 8
    semantic = made(with_map(tmp_path, values, categories, np.uint16))[0].target.semantic
    assert semantic is not None
    assert semantic[0, :4].tolist() == [1, 0, UNLABELED, VOID]


def test_unknown_value_is_named_with_its_file(tmp_path: Path) -> None:
    data = made(with_map(tmp_path, np.full((8, 12), 42)))
    with pytest.raises(DataError, match=r"map\.png holds 1 value other than .* \(3, 7, 90\).*: 42"):
        data[0]


def test_map_of_another_size_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"map\.png is 12 x 7, but its image is 12 x 8"):
        made(with_map(tmp_path, np.full((7, 12), 3)))[0]
    with pytest.raises(DataError, match=r"map\.png must hold one channel.*\(8, 12, 3\)"):
        made(with_map(tmp_path, np.full((8, 12, 3), 3)))[0]
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        read_semantic_map(tmp_path / "gone.png", CategoryMap(()), (8, 12))
