"""Differences by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from resnet_tasks.export.output_comparison import compare_predictions
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

ALLOWED = Tolerance(box=1.0, score=0.1, unmatched=0.25, pixels=0.25)


def boxes(*rows: tuple[float, float, int]) -> Detections:
    """(left, score, label) of boxes of 10 x 10."""
    corners = [[x, 0, x + 10, 10] for x, _, _ in rows]
    return Detections(
        torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([score for _, score, _ in rows]),
        torch.tensor([label for *_, label in rows], dtype=torch.int64),
    )


def test_detections_are_paired_by_class_place_and_score() -> None:
    wanted = boxes((0, 0.9, 0), (20, 0.8, 1), (40, 0.7, 0))
    found = boxes((40.5, 0.75, 0), (0.25, 0.9, 0), (20, 0.8, 0))  # the last: another class
    (here,) = compare_predictions([{"a": wanted}], [{"a": found}], ALLOWED).values()
    assert (here.images, here.detections, here.unmatched) == (1, 6, 2)  # one of either side
    assert here.unmatched_fraction == pytest.approx((0.8 + 0.8) / (2.4 + 2.45))
    assert here.box == pytest.approx(0.5)
    assert here.score == pytest.approx(0.05)
    assert not here.is_within(ALLOWED)
    assert here.is_within(replace(ALLOWED, unmatched=0.34))


def test_doubtful_detections_weigh_little() -> None:
    """Which of many near 0 are among the best hundred is a matter of rounding."""
    sure, doubts = [(0, 0.9, 0), (20, 0.8, 1)], [(100 + 20 * i, 0.01, 0) for i in range(10)]
    others = [(x + 1000, score, label) for x, score, label in doubts]
    here = compare_predictions(
        [{"a": boxes(*sure, *doubts)}], [{"a": boxes(*sure, *others)}], ALLOWED
    )["a"]
    assert (here.detections, here.unmatched) == (24, 20)
    assert here.unmatched_fraction == pytest.approx(0.2 / 3.6)
    assert here.is_within(ALLOWED)
    assert here.to_json()["lost"] == here.unmatched_fraction


def test_nothing_found_and_nothing_wanted() -> None:
    none = boxes()
    assert compare_predictions([{"a": none}], [{"a": none}], ALLOWED)["a"].is_within(ALLOWED)
    lost = compare_predictions([{"a": none}], [{"a": boxes((0, 0.9, 0))}], ALLOWED)["a"]
    assert (lost.unmatched, lost.is_within(ALLOWED)) == (1, False)


def test_pixels_of_all_images_together() -> None:
    def map_of(*labels: int) -> SegmentationMap:
        probs = np.eye(2, dtype=np.float32)[:, list(labels)][:, None]
        return SegmentationMap(np.asarray([labels]), probs)  # type: ignore[arg-type]

    wanted = [{"a": map_of(0, 1)}, {"a": map_of(0, 0, 0, 1, 1, 1)}]
    found = [{"a": map_of(0, 0)}, {"a": map_of(0, 0, 0, 1, 1, 0)}]
    here = compare_predictions(wanted, found, ALLOWED)["a"]
    assert here.pixels == 2 / 8
    assert here.score == pytest.approx(0.5)  # one of two pixels of the first image


def test_classes_of_images_and_values_that_are_none() -> None:
    wanted = Classification(torch.tensor([0.25, 0.75]))
    here = compare_predictions(
        [{"a": wanted}], [{"a": Classification(torch.tensor([0.5, 0.5]))}], ALLOWED
    )["a"]
    assert here == OutputDifference(images=1, score=0.25)
    lost = Classification(torch.tensor([torch.nan, 0.5]))
    assert not compare_predictions([{"a": wanted}], [{"a": lost}], ALLOWED)["a"].is_within(ALLOWED)
