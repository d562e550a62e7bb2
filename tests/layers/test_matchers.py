"""Matches by hand: IoU thresholds, the best candidate of an object, ignore regions."""

from __future__ import annotations

import torch

from resnet_tasks.layers.matchers import (
    NEGATIVE,
    NEITHER,
    IouMatcher,
    PointMatcher,
    extract_objects,
    find_points_in_regions,
)
from resnet_tasks.structures.targets import Target


def test_ignore_regions_are_neither_positive_nor_negative() -> None:
    matcher = IouMatcher(0.5, 0.5)
    candidates = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],  # the object
            [50.0, 50.0, 60.0, 60.0],  # inside the region
            [50.0, 50.0, 110.0, 60.0],  # 50 of 60 columns inside: 0.83
            [80.0, 50.0, 140.0, 60.0],  # 20 of 60 columns inside: 0.33
            [200.0, 200.0, 210.0, 210.0],  # elsewhere
            [0.0, 0.0, 10.0, 4.0],  # IoU 0.4 with the object
        ]
    )
    region = torch.tensor([[40.0, 40.0, 100.0, 100.0]])
    matches = matcher.match(candidates, candidates[:1], region)
    assert matches.tolist() == [0, NEITHER, NEITHER, NEGATIVE, NEGATIVE, NEGATIVE]
    # An object inside an ignore region stays an object.
    everywhere = torch.tensor([[0.0, 0.0, 300.0, 300.0]])
    assert matcher.match(candidates, candidates[:1], everywhere).tolist() == [0] + [NEITHER] * 5


def test_thresholds_and_the_best_candidate_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    widths = (8.0, 5.0, 2.0)  # IoU 0.8, 0.5 and 0.2
    candidates = torch.tensor([[0.0, 0.0, width, 10.0] for width in widths])
    none = torch.zeros(0, 4)
    assert IouMatcher(0.7, 0.3).match(candidates, box, none).tolist() == [0, NEITHER, NEGATIVE]
    assert IouMatcher(0.9, 0.3).match(candidates, box, none).tolist() == [NEITHER] * 2 + [NEGATIVE]
    best = IouMatcher(0.9, 0.3, best_is_positive=True)
    assert best.match(candidates, box, none).tolist() == [0, NEITHER, NEGATIVE]
    assert best.match(candidates, none, none).tolist() == [NEGATIVE] * 3
    assert best.match(none, box, none).tolist() == []


POINTS = torch.tensor([[16.0, 16.0], [20.0, 16.0], [60.0, 60.0], [16.0, 16.0], [16.0, 16.0]])
STRIDES = torch.tensor([8.0, 8.0, 8.0, 16.0, 32.0])


def test_points_learn_the_smallest_object_of_their_size_by_hand() -> None:
    none = torch.zeros(0, 4)
    boxes = torch.tensor([[0.0, 0.0, 32.0, 32.0], [8.0, 8.0, 24.0, 24.0], [0.0, 0.0, 99.0, 99.0]])
    # Farthest sides of the first point: 16, 8 and 83 pixels. Stride 8 learns objects below 64,
    # stride 16 from 64 to 128, stride 32 (the coarsest) above 128.
    anywhere = PointMatcher()
    assert anywhere.match(POINTS, STRIDES, boxes, none).tolist() == [1, 1, 2, 2, NEGATIVE]
    assert anywhere.match(POINTS, STRIDES, boxes[:1], none).tolist() == [0, 0, *[NEGATIVE] * 3]
    huge = torch.tensor([[0.0, 0.0, 400.0, 300.0]])
    assert anywhere.match(POINTS, STRIDES, huge, none).tolist() == [*[NEGATIVE] * 4, 0]
    # Among objects of the same size up to rounding, the first one is learned.
    alike = torch.tensor([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 31.999, 32.0]])
    assert anywhere.match(POINTS, STRIDES, alike, none).tolist()[:2] == [0, 0]
    assert anywhere.match(POINTS, STRIDES, alike.flip(0), none).tolist()[:2] == [0, 0]
    # A point on a side lies outside.
    side = torch.tensor([[16.0, 0.0, 30.0, 30.0]])
    assert anywhere.match(POINTS, STRIDES, side, none).tolist() == [NEGATIVE, 0, *[NEGATIVE] * 3]


def test_center_sampling_by_hand() -> None:
    none, box = torch.zeros(0, 4), torch.tensor([[2.0, 2.0, 50.0, 30.0]])  # center (26, 16)
    assert PointMatcher(1.5).match(POINTS, STRIDES, box, none).tolist()[:2] == [0, 0]
    assert PointMatcher(1.0).match(POINTS, STRIDES, box, none).tolist()[:2] == [NEGATIVE, 0]
    assert PointMatcher(0.5).match(POINTS, STRIDES, box, none).tolist() == [NEGATIVE] * 5


def test_points_in_ignore_regions_are_not_negative() -> None:
    none = torch.zeros(0, 4)
    region = torch.tensor([[0.0, 0.0, 18.0, 18.0]])
    matcher = PointMatcher(1.5)
    assert matcher.match(POINTS, STRIDES, none, none).tolist() == [NEGATIVE] * 5
    expected = [NEITHER, NEGATIVE, NEGATIVE, NEITHER, NEITHER]
    assert matcher.match(POINTS, STRIDES, none, region).tolist() == expected
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    assert matcher.match(POINTS, STRIDES, box, region).tolist() == [0, 0, *expected[2:]]


def test_objects_and_ignore_regions_are_separated() -> None:
    boxes, labels = torch.arange(12.0).view(3, 4), torch.tensor([5, 6, 7])
    objects, object_labels, ignored = extract_objects(
        Target(boxes=boxes, labels=labels, ignore=torch.tensor([False, True, False]))
    )
    assert torch.equal(objects, boxes[[0, 2]])
    assert object_labels.tolist() == [5, 7]
    assert torch.equal(ignored, boxes[1:2])
    assert len(extract_objects(Target(boxes=boxes, labels=labels))[2]) == 0


def test_points_in_regions_by_hand() -> None:
    points = torch.tensor([[5.0, 5.0], [15.0, 5.0], [10.0, 0.0]])
    regions = torch.tensor([[0.0, 0.0, 10.0, 10.0], [14.0, 8.0, 20.0, 20.0]])
    assert find_points_in_regions(points, regions).tolist() == [True, False, True]
    assert find_points_in_regions(points, regions[:0]).tolist() == [False] * 3
