"""Copy-paste: what is pasted, what it hides, and what decides it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.augmentation.copy_paste import CopyPaste
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack, to_stack

ALL = CopyPaste(p=1.0, fraction=1.0, min_visible=0.3)


def rectangle(x1: int, y1: int, x2: int, y2: int, size: tuple[int, int] = (10, 20)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def target(
    *boxes: tuple[int, int, int, int], size: tuple[int, int] = (10, 20), **more: Any
) -> Target:
    masks = [rectangle(*box, size) for box in boxes]
    return Target(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        ignore=torch.zeros(len(boxes), dtype=torch.bool),
        masks=from_stack(torch.stack(masks) if masks else torch.zeros(0, *size).bool()),
        **more,
    )


def pasted(into: Target, source: Target, how: CopyPaste = ALL, size: Any = (10, 20)) -> Any:
    black = np.zeros((10, 20, 3), np.float32)
    white = np.ones((*size, 3), np.float32)
    return how((black, into), (white, source), np.random.default_rng(0))


def test_trimmed_hidden_and_untouched_by_hand() -> None:
    semantic = torch.full((10, 20), 9)
    into = target((0, 0, 8, 4), (6, 5, 8, 9), (16, 0, 20, 2), (0, 5, 10, 9), semantic=semantic)
    source = target((4, 0, 10, 10))
    image, made = pasted(into, source)
    assert (image[..., 0] == rectangle(4, 0, 10, 10).numpy()).all()
    # The first is cut in half, the second is gone, the third as it was, 4 of 10 columns are left
    # of the fourth; then what was pasted.
    expected = [[0, 0, 4, 4], [16, 0, 20, 2], [0, 5, 4, 9], [4, 0, 10, 10]]
    assert made.boxes.tolist() == expected
    assert made.labels.tolist() == [0, 2, 3, 0]
    assert made.ignore.tolist() == [False] * 4
    assert made.masks.count_pixels().tolist() == [16, 8, 16, 60]
    parts = to_stack(made.masks, (10, 20))
    assert torch.equal(parts[0], rectangle(0, 0, 4, 4))
    assert torch.equal(parts[3], rectangle(4, 0, 10, 10))
    assert (made.semantic == torch.where(rectangle(4, 0, 10, 10), 0, 9)).all()
    assert (semantic == 9).all()  # what was given is not changed
    assert into.masks is not None
    assert int(into.masks.count_pixels()[0]) == 32


def test_what_is_hardly_visible_is_ignored() -> None:
    _, made = pasted(target((0, 0, 10, 4)), target((2, 0, 10, 10)))
    assert made.boxes.tolist() == [[0, 0, 2, 4], [2, 0, 10, 10]]
    assert made.ignore.tolist() == [True, False]  # 20 % are left


def test_objects_without_masks_go_by_their_boxes() -> None:
    into = target((0, 0, 4, 4), (0, 0, 20, 10), (12, 0, 15, 3))
    into = replace(into, masks=InstanceMasks.from_bitmaps([None] * 3, [(0, 0)] * 3))
    _, made = pasted(into, target((0, 0, 5, 5)))
    assert made.boxes.tolist() == [[0, 0, 20, 10], [12, 0, 15, 3], [0, 0, 5, 5]]
    assert made.masks.count_pixels().tolist() == [0, 0, 25]
    assert made.masks.annotated.tolist() == [False, False, True]


def test_frames_of_other_sizes() -> None:
    larger = target((18, 0, 22, 4), (16, 0, 30, 4), (0, 8, 4, 30), size=(30, 30))
    _, made = pasted(target(), larger, size=(30, 30))
    # Half of the first lies inside, 4 of 14 columns of the second, 2 of 22 rows of the third.
    assert made.boxes.tolist() == [[18, 0, 20, 4]]
    smaller = target((0, 0, 3, 3), size=(5, 5))
    _, made = pasted(target(), smaller, size=(5, 5))
    assert made.boxes.tolist() == [[0, 0, 3, 3]]
    assert made.masks.windows.tolist() == [[0, 0, 3, 3]]


def test_what_stays_behind() -> None:
    source = target((0, 0, 2, 2), (4, 4, 6, 6), (8, 8, 9, 9))
    assert source.ignore is not None
    assert source.masks is not None
    source.ignore[0] = True
    bitmaps = [*source.masks.bitmaps[:1], None, *source.masks.bitmaps[2:]]
    corners = [(0, 0), (4, 4), (8, 8)]
    source = replace(source, masks=InstanceMasks.from_bitmaps(bitmaps, corners))
    _, made = pasted(target(), source)
    assert made.boxes.tolist() == [[8, 8, 9, 9]]
    into = target((0, 0, 2, 2))
    assert pasted(into, Target(boxes=source.boxes, labels=source.labels))[1] is into
    assert pasted(into, source, CopyPaste(fraction=0.0))[1] is into


def test_kinds_that_are_not_annotated_stay_unknown() -> None:
    semantic = torch.zeros(10, 20, dtype=torch.int64)
    _, made = pasted(Target(semantic=semantic), target((1, 1, 3, 3), (4, 4, 6, 6)))
    assert made.boxes is None
    assert made.masks is None
    assert int(made.semantic.sum()) == 4  # the second one's label is 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of one shade each, an object at another place in each."""
    images, annotations = [], []
    for i in range(6):
        Image.new("RGB", (32, 16), (40 * i,) * 3).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 16, "width": 32})
        x = 5 * i
        outline = [[x, 2, x + 4, 2, x + 4, 6, x, 6]]
        box = {"bbox": [x, 2, 4, 4], "area": 16, "iscrowd": 0, "segmentation": outline}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 2, **box})
    content: dict[str, Any] = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (tmp_path / "data.json").write_text(json.dumps(content))
    return tmp_path


def dataset(folder: Path, **options: Any) -> CocoDataset:
    file = read_coco(folder / "data.json")
    augmentation = SampleAugmentation(copy_paste=ALL, seed=5)
    return CocoDataset([file], categories=file.categories, augmentation=augmentation, **options)


def test_a_function_of_seed_epoch_and_image(folder: Path) -> None:
    data = dataset(folder, fields=("boxes", "semantic"))
    seen = set()
    for epoch in range(8):
        sample = data[epoch, 2]
        again = dataset(folder, fields=("boxes", "semantic"))[epoch, 2]
        assert torch.equal(sample.image, again.image)
        assert sample.target.boxes is not None
        assert sample.target.labels is not None
        assert sample.target.semantic is not None
        assert len(sample.target.boxes) == 2
        assert sample.target.masks is None  # only pasting needed them
        own, guest = sample.target.boxes.long().tolist()
        assert own == [10, 2, 14, 6]
        shade = round(float(sample.image[0, guest[1], guest[0]]) * 255 / 40)
        assert guest == [5 * shade, 2, 5 * shade + 4, 6]
        assert sample.target.labels.tolist() == [0, shade % 2]
        assert int((sample.target.semantic >= 0).sum()) == 32
        seen.add(shade)
    assert len(seen) > 2
    assert 2 not in seen
    visits = [data[0, 2, 1.0, visit].image for visit in range(6)]
    assert any(not torch.equal(visits[0], each) for each in visits[1:])


def test_only_what_was_asked_for_is_handed_over(folder: Path) -> None:
    found = dataset(folder, fields=("semantic",))[0].target
    assert found.boxes is None
    assert found.labels is None
    assert found.ignore is None
    found = dataset(folder, fields=("boxes", "masks"))[0].target
    assert found.masks is not None
    assert found.masks.count_pixels().tolist() == [16, 16]


def test_a_bad_source_is_left_alone_where_that_is_wished(folder: Path) -> None:
    for i in range(1, 6):
        (folder / f"{i}.png").write_bytes(b"")
    with pytest.raises(Exception, match="is not an image"):
        dataset(folder)[0]
    found = dataset(folder, unreadable_image_limit=1.0)[0].target
    assert found.boxes is not None
    assert len(found.boxes) == 1
