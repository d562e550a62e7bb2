"""Matches by hand: IoU thresholds, the best candidate of an object, ignore regions."""

from __future__ import annotations

import torch

from resnet_tasks.layers.matchers import (
    NEGATIVE,
    NEITHER,
    IouMatcher,
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
