"""Packed images and annotations give back what went in."""

from __future__ import annotations

import pickle
from array import array

import numpy as np
import pytest

from resnet_tasks.data.coco.packed.annotation_packer import pack_annotations
from resnet_tasks.data.coco.packed.annotations import PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.errors import DataError

RECORDS = (
    ImageRecord(900, "b.png", 4, 6),
    ImageRecord(-3, "ä/ü.png", 5, 7, "map.png", "patient 1", (0.5, 2.0), {"note": ["x", 1]}),
    ImageRecord(12, "c.png", 1, 1),
)
POLYGONS = [array("d", [0, 0, 3.25, 0, 3, 3]), array("d", [1, 1, 2, 1, 2, 2, 1, 2.1])]
OBJECTS = {
    12: (
        Annotation(7, 12, 1, (0, 0, 1, 1), 0.5, segmentation=POLYGONS),
        Annotation(5, 12, 0, None, 0.0),
        Annotation(2**70, 12, 2, (0.1, 0.2, 0.7, 0.6), 0.42, True, POLYGONS[:1]),
    ),
    900: (
        Annotation("a", 900, 2, (1, 2, 3, 1), 3.0, segmentation={"size": [4, 6], "counts": "0X"}),
        Annotation(9, 900, 2, (1, 2, 3, 1), 3.0, occluded=2.0, truncated=0.25),
    ),
}


def packed() -> tuple[PackedImages, PackedAnnotations]:
    images = PackedImages.from_records(RECORDS)
    return images, pack_annotations(OBJECTS, images)


def test_records_come_back() -> None:
    images, annotations = packed()
    assert tuple(images) == RECORDS
    assert images[1].extra == RECORDS[1].extra  # left out of their equality
    assert images[-1] == RECORDS[2]
    assert list(images[:2]) == list(RECORDS[:2])
    assert dict(annotations) == {900: OBJECTS[900], -3: (), 12: OBJECTS[12]}
    assert list(annotations) == [900, -3, 12]
    with pytest.raises(IndexError):
        images[3]


def test_they_travel_to_another_process() -> None:
    images, annotations = pickle.loads(pickle.dumps(packed()))
    assert tuple(images) == RECORDS
    assert annotations[900] == OBJECTS[900]


@pytest.mark.parametrize("ids", [(1, "1", "x"), (2**63 - 1, -(2**63), 0), (2**80, 4, "4")])
def test_any_ids_are_found(ids: tuple[int | str, ...]) -> None:
    images = PackedImages.from_records(ImageRecord(each, "a.png", 2, 2) for each in ids)
    assert [images.find_position(each) for each in ids] == [0, 1, 2]
    assert [images.get_id(position) for position in range(3)] == list(ids)
    for other in (5, "5", "", 2**63, 2**81, None, 1.0, True):
        assert images.find_position(other) is None
    annotations = pack_annotations({ids[1]: (Annotation(1, ids[1], 0, None, 0.0),)}, images)
    assert [len(annotations[each]) for each in ids] == [0, 1, 0]
    with pytest.raises(KeyError):
        annotations["nobody"]


def test_nothing_at_all() -> None:
    images = PackedImages.from_records(())
    annotations = pack_annotations({}, images)
    assert len(images) == len(annotations) == 0
    assert annotations.count_objects(2).tolist() == [0, 0]
    assert [each.tolist() for each in annotations.list_image_categories()] == [[], []]


def test_counts_leave_crowds_out() -> None:
    _, annotations = packed()
    assert annotations.count_objects(4).tolist() == [1, 1, 2, 0]  # of category 2 the crowd is out
    assert [each.tolist() for each in annotations.list_image_categories()] == [[0, 2, 2], [2, 0, 1]]


def test_other_categories() -> None:
    _, annotations = packed()
    moved = annotations.remap_categories([5, 6, 7])
    assert [each.category for each in moved[12]] == [6, 5, 7]
    assert [each.category for each in annotations[12]] == [1, 0, 2]


def test_strangers_are_refused() -> None:
    images = PackedImages.from_records(RECORDS)
    with pytest.raises(DataError, match="annotation 4 belongs to image 99"):
        pack_annotations({99: (Annotation(4, 99, 0, None, 0.0),)}, images)
    with pytest.raises(DataError, match="the same id"):
        PackedImages.from_records((RECORDS[0], RECORDS[0]))


def test_random_polygons_come_back_in_their_order() -> None:
    rng = np.random.default_rng(0)
    records = [ImageRecord(int(each), f"{each}.png", 9, 9) for each in rng.permutation(30)]
    images = PackedImages.from_records(records)
    given: dict[int, list[Annotation]] = {}
    for number in range(300):
        polygons = [array("d", rng.random(2 * k)) for k in rng.integers(3, 9, rng.integers(1, 4))]
        image = int(rng.integers(0, 30))
        one = Annotation(number, image, 0, (0, 0, 1, 1), 1.0, segmentation=polygons)
        given.setdefault(image, []).append(one)
    found = pack_annotations(given, images)
    assert {key: list(found[key]) for key in given} == given
