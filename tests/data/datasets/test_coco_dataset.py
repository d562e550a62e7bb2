"""COCO files as samples: a hand-written file and 80 real images."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.datasets.targets import has_annotations_for
from resnet_tasks.data.datasets.tiled_dataset import TiledDataset, Tiling
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import DataError
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from tests.support.hand_written import coco, labeled, made


def test_sample_of_a_hand_written_file(tmp_path: Path) -> None:
    data = made(coco(tmp_path))
    assert len(data) == 3
    sample = data[0]
    with Image.open(tmp_path / "1.png") as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
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
    assert target.masks is not None
    assert target.masks.windows.tolist() == [[0, 0, 6, 6], [2, 2, 4, 4], [8, 4, 12, 8]]
    assert data.count_objects() == {"dog": 1, "car": 1, "road": 1}


@pytest.mark.parametrize("tiled", [False, True])
def test_public_methods_are_few(tmp_path: Path, *, tiled: bool) -> None:
    """Options are arguments of the constructor; sampling and augmentation are parts."""
    images = made(coco(tmp_path))
    data = TiledDataset(images, Tiling(WindowGrid(64, 64), empty=None)) if tiled else images
    methods = [
        name
        for name in dir(data)
        if not name.startswith("_")
        and (hasattr(type(data), name) or inspect.isroutine(getattr(data, name)))
    ]
    assert "describe" in methods if tiled else "truth" in methods
    assert len(methods) <= 10, methods


def test_image_of_another_size_is_refused(tmp_path: Path) -> None:
    file = coco(tmp_path)
    Image.new("RGB", (8, 12)).save(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"2\.png is 8 x 12 .*image 2 of .* says 12 x 8"):
        made(file)[1]


def test_file_without_images_is_refused(tmp_path: Path) -> None:
    file = coco(tmp_path, images=[], annotations=[])
    with pytest.raises(DataError, match=r"train\.json: the annotations contain no images"):
        made(file)


def test_one_channel_and_sixteen_bits(tmp_path: Path) -> None:
    values = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    file = coco(tmp_path)
    Image.fromarray(values).save(tmp_path / "1.png")
    image = made(file, preparation=Preparation(1))[0].image
    assert image.shape == (1, 8, 12)
    assert torch.allclose(image[0], torch.from_numpy(values.astype(np.float32) / 65535))


def test_augmentation_moves_with_the_epoch(tmp_path: Path) -> None:
    steps = [{"Affine": {"rotate": [-45, 45], "p": 1.0}}]
    data = made(coco(tmp_path), augmentation=SampleAugmentation(Augmentation(steps)))
    first = data[(0, 0)].image
    assert not torch.equal(data[(1, 0)].image, first)
    assert torch.equal(data[(0, 0)].image, first)


def test_annotations_without_a_box_are_labels_of_the_whole_image(tmp_path: Path) -> None:
    file = labeled(tmp_path, ["boxes", "image"])
    assert file.problems == ()
    dataset = CocoDataset([file], categories=file.categories)
    found = [dataset[i].target for i in range(3)]
    assert [each.image_labels.tolist() for each in found] == [[0, 2], [], [1]]
    assert [each.labels.tolist() for each in found] == [[1], [], []]
    assert has_annotations_for(("image_labels",), file)
    assert has_annotations_for(("boxes", "labels"), file)
    flip = SampleAugmentation(Augmentation([{"HorizontalFlip": {"p": 1.0}}]))
    flipped = CocoDataset([file], categories=file.categories, augmentation=flip)
    assert flipped[0].target.image_labels.tolist() == [0, 2]


def test_real_coco(shared_data: Path) -> None:
    root = shared_data / "coco_tiny"
    file = read_coco(root / "annotations/instances_val2017.json", images_root=root / "val2017")
    data = made(file, preparation=Preparation(resize=Resize(96, 96)), cache=False)
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


def test_a_file_that_lacks_a_category_keeps_its_labels(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    box = {"id": 1, "image_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    image = {"id": 1, "file_name": "x.png", "height": 8, "width": 8}
    files = []
    for name, ids in (("train", (1, 2, 3)), ("val", (1, 3))):
        categories = [{"id": each, "name": "abc"[each - 1]} for each in ids]
        content = {
            "images": [image],
            "annotations": [{**box, "category_id": 3}],
            "categories": categories,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        files.append(read_coco(tmp_path / f"{name}.json"))
    merged = CategoryMap.merge([file.categories for file in files])
    dataset = CocoDataset([files[1]], categories=merged)
    assert dataset[0].target.labels is not None
    assert dataset[0].target.labels.tolist() == [2]
    truth = dataset.truth(0, LabelTable.identity(merged.names))
    assert truth.labels is not None
    assert truth.labels.tolist() == [2]
    assert dataset.count_objects() == {"a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize("orientation", [1, 6])
def test_another_size_names_the_check_and_exif(tmp_path: Path, orientation: int) -> None:
    file = coco(tmp_path).path
    content = json.loads(file.read_text())
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(tmp_path / "1.png") as image:
        image.save(tmp_path / "1.png", exif=exif)
    if orientation == 1:
        content["images"][0]["width"] += 1
        file.write_text(json.dumps(content))
    with pytest.raises(DataError) as info:
        made(read_coco(file))[0]
    message = str(info.value)
    assert f"`resnet-tasks data check {file} --read-images` lists all images" in message
    assert ("the EXIF orientation 6 of the image swaps width and height" in message) == (
        orientation == 6
    )
    stated = "8 x 12 (width x height, upright), but image 1 of" if orientation == 6 else "12 x 8 ("
    assert stated in message
