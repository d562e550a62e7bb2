"""COCO files as samples: a hand-written file and 80 real pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data import dataset as module
from resnet_tasks.data.coco import CategoryMap, CocoFile, read_coco
from resnet_tasks.data.dataset import CocoDataset, HasTruth, sample_seed
from resnet_tasks.data.pixels import Intensity, Resize
from resnet_tasks.data.semantic_maps import read_semantic
from resnet_tasks.data.transforms import Augmentation
from resnet_tasks.data.truths import annotated_truth
from resnet_tasks.errors import DataError
from resnet_tasks.structures import (
    CLASSIFICATION,
    DETECTION,
    IGNORED,
    UNLABELLED,
    VOID,
    Geometry,
    LabelTable,
)

CATEGORIES = [{"id": 7, "name": "car"}, {"id": 90, "name": "road"}, {"id": 3, "name": "dog"}]
"""Indices: dog 0, car 1, road 2."""


def box(annotation_id: int, image: int, category: int, xywh: list[float], **more: Any) -> Any:
    found = {"id": annotation_id, "image_id": image, "category_id": category, "bbox": xywh}
    return {**found, "area": xywh[2] * xywh[3], "iscrowd": 0, **more}


def square(x: int, y: int, size: int) -> list[list[int]]:
    return [[x, y, x + size, y, x + size, y + size, x, y + size]]


def coco(folder: Path, *, name: str = "train.json", **fields: Any) -> CocoFile:
    """Pictures 1 (objects, 8 x 12), 2 (none), 3 (an object) with noise in them."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    images = []
    for i in (1, 2, 3):
        pixels = rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 8, "width": 12})
    annotations = [
        box(1, 1, 90, [0, 0, 6, 6], segmentation=square(0, 0, 6)),
        box(2, 1, 3, [2, 2, 2, 2], segmentation=square(2, 2, 2)),
        box(3, 1, 7, [8, 4, 4, 4], iscrowd=1, segmentation=square(8, 4, 4)),
        box(4, 3, 7, [9, 5, 6, 6], segmentation=square(9, 5, 3)),  # beyond the frame
    ]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES, **fields}
    (folder / name).write_text(json.dumps(content))
    return read_coco(folder / name)


def with_map(folder: Path, values: Any, categories: Any = None, dtype: Any = np.uint8) -> CocoFile:
    """One picture of 8 x 12 with a semantic PNG, one without."""
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


def made(file: CocoFile, **options: Any) -> CocoDataset:
    return CocoDataset([file], categories=file.categories, **options)


IDENTITY = LabelTable.identity(("dog", "car", "road"))


# --- Boxes ---------------------------------------------------------------------------------------


def test_sample_of_a_hand_written_file(tmp_path: Path) -> None:
    data = made(coco(tmp_path))
    assert len(data) == 3
    sample = data[0]
    with Image.open(tmp_path / "1.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    assert torch.allclose(sample.image, pixels)
    assert sample.image.dtype == torch.float32
    assert sample.image_id == data.image_id(0) == 1
    assert sample.file_name == "1.png"
    assert data.path(0) == tmp_path / "1.png"
    assert sample.geometry == Geometry((8, 12), (8, 12))
    target = sample.target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.ignore is not None
    assert target.boxes.tolist() == [[0, 0, 6, 6], [2, 2, 4, 4], [8, 4, 12, 8]]
    assert target.labels.tolist() == [2, 0, 1]  # indices, not ids 90, 3, 7
    assert target.ignore.tolist() == [False, False, True]  # the crowd
    assert target.masks is None
    assert data.counts() == {"dog": 1, "car": 1, "road": 1}


def test_picture_without_objects_is_empty_not_unannotated(tmp_path: Path) -> None:
    target = made(coco(tmp_path))[1].target
    assert target.boxes is not None
    assert target.labels is not None
    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)


def test_boxes_are_resized_and_clipped(tmp_path: Path) -> None:
    data = made(coco(tmp_path), resize=Resize(16, 16))
    sample = data[2]
    assert sample.image.shape == (3, 11, 16)  # the ratio is kept
    assert sample.target.boxes is not None
    expected = torch.tensor([[9 * 16 / 12, 5 * 11 / 8, 16, 11]])
    assert torch.allclose(sample.target.boxes, expected)
    back = sample.geometry.boxes_to_original(sample.target.boxes)
    assert torch.allclose(back, torch.tensor([[9.0, 5, 12, 8]]))


def test_what_is_not_annotated_is_none(tmp_path: Path) -> None:
    data = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "semantic"))
    assert data[0].target.semantic is None
    assert data.truth(0, IDENTITY).semantic is None
    data = made(coco(tmp_path, info={"annotated": ["masks"]}))
    assert data[0].target.boxes is None
    assert data[0].target.semantic is not None
    assert data.truth(0, IDENTITY).boxes_xywh is None
    data = made(coco(tmp_path), fields=("boxes",))
    assert data[0].target.semantic is None


def test_masks_follow_their_boxes(tmp_path: Path) -> None:
    masks = made(coco(tmp_path), fields=("boxes", "masks"))[0].target.masks
    assert masks is not None
    assert masks.dtype == torch.bool
    assert masks.sum(dim=(1, 2)).tolist() == [36, 4, 16]
    assert masks[1, 2:4, 2:4].all()
    empty = made(coco(tmp_path), fields=("boxes", "masks"))[1].target.masks
    assert empty is not None
    assert empty.shape == (0, 8, 12)
    unmasked = made(coco(tmp_path, info={"annotated": ["boxes"]}), fields=("boxes", "masks"))
    assert unmasked[0].target.masks is None


# --- Semantic maps -------------------------------------------------------------------------------


def test_map_is_drawn_from_instances_small_ones_on_top(tmp_path: Path) -> None:
    semantic = made(coco(tmp_path))[0].target.semantic
    assert semantic is not None
    expected = torch.full((8, 12), UNLABELLED)
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
    assert semantic[:, 0].tolist() == [UNLABELLED, VOID, 0, 2, 2, 2, 2, 2]
    truth = data.truth(0, LabelTable(("background", "road"), (IGNORED, IGNORED, 1), 0)).semantic
    assert truth is not None
    assert truth[:, 0].tolist() == [0, VOID, VOID, 1, 1, 1, 1, 1]


def test_picture_without_a_map_of_its_own_is_not_annotated(tmp_path: Path) -> None:
    data = made(with_map(tmp_path, np.full((8, 12), 3)))
    assert data[1].target.semantic is None
    assert data.truth(1, IDENTITY).semantic is None


def test_category_zero_wins_over_unlabelled(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "sky"}, {"id": 255, "name": "last"}]
    semantic = made(with_map(tmp_path, [[0] * 6 + [255] * 6] * 8, categories))[0].target.semantic
    assert semantic is not None
    assert semantic[0].tolist() == [0] * 6 + [1] * 6


def test_sixteen_bit_map(tmp_path: Path) -> None:
    categories = [{"id": 300, "name": "a"}, {"id": 255, "name": "b"}]
    values = [[300, 255, 0, 65535] * 3] * 8
    semantic = made(with_map(tmp_path, values, categories, np.uint16))[0].target.semantic
    assert semantic is not None
    assert semantic[0, :4].tolist() == [1, 0, UNLABELLED, VOID]


def test_unknown_value_is_named_with_its_file(tmp_path: Path) -> None:
    data = made(with_map(tmp_path, np.full((8, 12), 42)))
    with pytest.raises(DataError, match=r"map\.png holds the value\(s\) \[42\].*\(3, 7, 90\)"):
        data[0]


def test_map_of_another_size_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"map\.png is 12 x 7, its picture 12 x 8"):
        made(with_map(tmp_path, np.full((7, 12), 3)))[0]
    with pytest.raises(DataError, match=r"map\.png must hold one channel.*\(8, 12, 3\)"):
        made(with_map(tmp_path, np.full((8, 12, 3), 3)))[0]
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        read_semantic(tmp_path / "gone.png", CategoryMap(()), (8, 12))


# --- Pictures ------------------------------------------------------------------------------------


def test_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    file = coco(tmp_path)
    Image.new("RGB", (8, 12)).save(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"2\.png is 8 x 12 .*image 2 of .* says 12 x 8"):
        made(file)[1]


def test_file_without_pictures_is_refused(tmp_path: Path) -> None:
    file = coco(tmp_path, images=[], annotations=[])
    with pytest.raises(DataError, match=r"train\.json: there is no picture"):
        made(file)


@pytest.mark.parametrize("intensity", [Intensity(), Intensity("window", level=128, width=64)])
def test_cache_changes_nothing(tmp_path: Path, intensity: Intensity) -> None:
    file = coco(tmp_path)
    options: dict[str, Any] = {"resize": Resize(6, 6), "intensity": intensity}
    options["augment"] = Augmentation([{"Affine": {"rotate": [-20, 20], "p": 1.0}}])
    kept, fresh = (made(file, cache=cache, **options) for cache in (True, False))
    for key in (0, 1, 2, 0, (1, 0), 0):
        one, other = kept[key], fresh[key]
        assert torch.equal(one.image, other.image)
        assert one.target.semantic is not None
        assert other.target.semantic is not None
        assert torch.equal(one.target.semantic, other.target.semantic)
        assert one.seed == other.seed
    (tmp_path / "1.png").unlink()
    assert kept[0].image.shape == (3, 4, 6)
    with pytest.raises(DataError, match="does not exist"):
        fresh[0]


def test_cache_keeps_no_more_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_LIMIT", 3 * 8 * 12 * 4)  # as 8-bit pictures all would fit
    deep = made(coco(tmp_path), intensity=Intensity("percentile"), fields=("boxes",))
    for i in range(3):
        deep[i]
    for i in (1, 2, 3):
        (tmp_path / f"{i}.png").unlink()
    assert deep[0].image.shape == (3, 8, 12)
    with pytest.raises(DataError, match="does not exist"):
        deep[1]


def test_one_channel_and_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    file = coco(tmp_path)
    Image.fromarray(values).save(tmp_path / "1.png")
    image = made(file, channels=1)[0].image
    assert image.shape == (1, 8, 12)
    assert torch.allclose(image[0], torch.from_numpy(values.astype(np.float32) / 65535))


# --- Randomness and ids --------------------------------------------------------------------------


def test_seed_of_a_sample_depends_on_run_epoch_and_picture_only(tmp_path: Path) -> None:
    seeds = {sample_seed(s, e, i) for s in range(3) for e in range(3) for i in (1, 2, "1", "a")}
    assert len(seeds) == 36
    assert all(0 <= each < 2**63 for each in seeds)
    data = made(coco(tmp_path), seed=5)
    assert data[(2, 0)].seed == sample_seed(5, 2, 1)
    assert data[0].seed == sample_seed(5, 0, 1)


def test_augmentation_moves_with_the_epoch(tmp_path: Path) -> None:
    steps = [{"Affine": {"rotate": [-45, 45], "p": 1.0}}]
    data = made(coco(tmp_path), augment=Augmentation(steps))
    first = data[(0, 0)].image
    assert not torch.equal(data[(1, 0)].image, first)
    assert torch.equal(data[(0, 0)].image, first)


def test_repeated_ids_are_made_unique(tmp_path: Path) -> None:
    files = [coco(tmp_path, name="a.json"), coco(tmp_path, name="b.json")]
    data = CocoDataset(files, categories=files[0].categories)
    assert [data.image_id(i) for i in (0, 3)] == ["a/1", "b/1"]
    assert data[4].image_id == data.truth(4, IDENTITY).image_id == "b/2"
    same = [coco(tmp_path / name) for name in ("one", "two")]
    ids = [CocoDataset(same, categories=files[0].categories).image_id(i) for i in range(6)]
    assert ids == [f"train-{file}/{image}" for file in (1, 2) for image in (1, 2, 3)]


# --- Truth ---------------------------------------------------------------------------------------


def test_truth_is_in_original_pixels_as_in_the_file(tmp_path: Path) -> None:
    data = made(coco(tmp_path), resize=Resize(4, 4))
    assert isinstance(data, HasTruth)
    truth = data.truth(2, IDENTITY)
    assert truth.size == (8, 12)
    assert truth.boxes_xywh is not None
    assert truth.boxes_xywh.tolist() == [[9, 5, 6, 6]]  # exactly: not clipped
    truth = data.truth(0, LabelTable(("car", "dog"), (1, 0, IGNORED)))
    assert truth.labels is not None
    assert truth.crowd is not None
    assert truth.areas is not None
    assert truth.labels.tolist() == [1, 0]
    assert truth.crowd.tolist() == [False, True]
    assert truth.areas.tolist() == [4, 16]
    assert truth.semantic is not None
    assert truth.semantic.shape == (8, 12)
    assert truth.semantic[0, 0] == VOID  # road, unknown to this head
    nothing = data.truth(1, IDENTITY).boxes_xywh
    assert nothing is not None
    assert nothing.shape == (0, 4)


def test_truth_tells_group_spacing_visibility_and_unknown_objects(tmp_path: Path) -> None:
    file = coco(tmp_path)
    record = replace(file.images[0], group="p1", spacing=(0.5, 2.0))
    seen = [each for each in file.annotations[record.id] if each.bbox is not None]
    names = [file.categories.names[each.category] for each in seen]
    assert sorted(names) == ["car", "dog", "road"]
    hidden = tuple(replace(each, occluded=2.0 if i == 2 else None) for i, each in enumerate(seen))
    file = replace(file, annotations={**file.annotations, record.id: hidden})
    truth = annotated_truth(file, record, 1, (0, 1, 2))
    assert (truth.group, truth.spacing, truth.others) == ("p1", (0.5, 2.0), ())
    assert truth.occluded is not None
    assert np.array_equal(truth.occluded, [np.nan, np.nan, 2.0], equal_nan=True)
    assert truth.truncated is None
    truth = annotated_truth(file, record, 1, (IGNORED, IGNORED, IGNORED))
    assert truth.others == tuple(names)
    assert truth.others_xywh is not None
    assert truth.others_xywh.tolist() == [list(each.bbox) for each in seen if each.bbox]


# --- Real pictures -------------------------------------------------------------------------------


def labelled(folder: Path, annotated: list[str]) -> CocoFile:
    """Pictures 1 (labels 90, 3 and 3 again, and a box), 2 (none) and 3 (label 7)."""
    labels = [(1, 90), (1, 3), (1, 3), (3, 7)]
    annotations = [
        {"id": i, "image_id": image, "category_id": category}
        for i, (image, category) in enumerate(labels, start=1)
    ]
    annotations.append(box(9, 1, 7, [0, 0, 6, 6]))
    info = {"annotated": annotated}
    return coco(folder, annotations=annotations, info=info)


def test_annotations_without_a_box_are_labels_of_the_whole_picture(tmp_path: Path) -> None:
    file = labelled(tmp_path, ["boxes", "image"])
    assert file.problems == ()
    dataset = CocoDataset([file], categories=file.categories)
    found = [dataset[i].target for i in range(3)]
    assert [each.image_labels.tolist() for each in found] == [[0, 2], [], [1]]
    assert [each.labels.tolist() for each in found] == [[1], [], []]
    assert dataset.annotates(CLASSIFICATION)
    assert dataset.annotates(DETECTION)
    flipped = CocoDataset(
        [file], categories=file.categories, augment=Augmentation([{"HorizontalFlip": {"p": 1.0}}])
    )
    assert flipped[0].target.image_labels.tolist() == [0, 2]


def test_image_labels_are_not_annotated_unless_said(tmp_path: Path) -> None:
    file = labelled(tmp_path, ["boxes"])
    assert file.summary() == {"no_box": 4}
    dataset = CocoDataset([file], categories=file.categories)
    assert dataset[0].target.image_labels is None
    assert not dataset.annotates(CLASSIFICATION)
    assert dataset.truth(0, LabelTable.identity(file.categories.names)).image_labels is None


def test_truth_of_image_labels_in_a_heads_own_labels(tmp_path: Path) -> None:
    file = labelled(tmp_path, ["image"])
    dataset = CocoDataset([file], categories=file.categories)
    table = LabelTable(("road", "car"), (IGNORED, 1, 0))
    truths = [dataset.truth(i, table) for i in range(3)]
    assert [each.image_labels.tolist() for each in truths] == [[IGNORED, 0], [], [1]]
    assert truths[0].boxes_xywh is None


def test_real_coco(shared_data: Path) -> None:
    root = shared_data / "coco_tiny"
    file = read_coco(root / "annotations/instances_val2017.json", images_root=root / "val2017")
    data = made(file, resize=Resize(96, 96), cache=False)
    assert len(data) == 80
    crowds = 0
    for i, record in enumerate(file.images):
        annotations = file.annotations[record.id]
        truth = data.truth(i, LabelTable.identity(file.categories.names))
        assert truth.boxes_xywh is not None
        assert truth.labels is not None
        assert len(truth.boxes_xywh) == len(annotations)
        crowds += sum(each.is_crowd for each in annotations)
        if i % 8:
            continue  # decoding all would only cost time
        sample = data[i]
        height, width = sample.image.shape[1:]
        assert max(height, width) == 96
        target = sample.target
        assert target.boxes is not None
        assert target.labels is not None
        assert target.ignore is not None
        assert target.semantic is not None
        assert target.semantic.shape == (height, width)
        assert target.labels.tolist() == truth.labels.tolist()
        assert int(target.ignore.sum()) == sum(each.is_crowd for each in annotations)
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
        corners = torch.from_numpy(truth.boxes_xywh).float()
        corners[:, 2:] += corners[:, :2]
        back = sample.geometry.boxes_to_original(target.boxes)
        assert torch.allclose(back, corners, atol=0.05)
    assert crowds > 0
