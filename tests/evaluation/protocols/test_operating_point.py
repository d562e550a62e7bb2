"""Operating points: rules as text, hand-computed choices, ties, and what cannot be reached."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator
from resnet_tasks.evaluation.protocols.operating_point import (
    ThresholdRule,
    choose_thresholds,
    get_label_thresholds,
)
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.detections import Detections


def place(number: int) -> list[float]:
    return [number * 20.0, 0.0, number * 20.0 + 10, 10.0]


def judged(
    hits: list[tuple[float, int]],
    misses: list[tuple[float, int]],
    objects: list[int],
    images: int = 2,
) -> FrocEvaluator:
    """Objects by label, hits of the first ones and misses beside them, as (score, label)."""
    evaluator = FrocEvaluator(("a", "b"))
    rows = [(place(i), *each) for i, each in enumerate(hits)]
    rows += [(place(100 + i), *each) for i, each in enumerate(misses)]
    boxes = [place(i) for i in range(len(objects))]
    xywh = np.asarray([[x, y, 10, 10] for x, y, _, _ in boxes], np.float64).reshape(-1, 4)
    found = Detections(
        torch.tensor([row[0] for row in rows]).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float64),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    evaluator.update(found, GroundTruth(0, (20, 4000), xywh, np.asarray(objects, np.int64)))
    for i in range(1, images):
        none = np.zeros((0, 4))
        evaluator.update(nothing, GroundTruth(i, (20, 4000), none, np.zeros(0, np.int64)))
    return evaluator


def mixed() -> FrocEvaluator:
    """Class a: hits at 0.9, 0.6 and 0.3 of four objects; misses at 0.7, 0.3 and 0.2."""
    return judged(
        hits=[(0.9, 0), (0.6, 0), (0.3, 0)],
        misses=[(0.7, 0), (0.3, 0), (0.2, 0)],
        objects=[0, 0, 0, 0],
    )


@pytest.mark.parametrize(
    ("text", "threshold", "sensitivity", "false_positives"),
    [
        # F1: 0.9 -> 2/5, 0.7 -> 2/6, 0.6 -> 4/7, 0.3 -> 6/9, 0.2 -> 6/10
        ("max-f1", 0.3, 3 / 4, 2 / 2),
        ("sensitivity>=0.25", 0.9, 1 / 4, 0.0),
        ("sensitivity >= 0.5", 0.6, 1 / 2, 1 / 2),
        ("sensitivity>=0.75", 0.3, 3 / 4, 2 / 2),
        ("false-positives<=0", 0.9, 1 / 4, 0.0),
        ("false positives per image <= 0.5", 0.6, 1 / 2, 1 / 2),
        ("false_positives<=0.99", 0.6, 1 / 2, 1 / 2),  # at 0.3 a hit and a miss come together
        ("false_positives<=1", 0.3, 3 / 4, 2 / 2),
        ("false_positives<=8", 0.3, 3 / 4, 2 / 2),  # lower only adds false positives
    ],
)
def test_hand_computed(
    text: str, threshold: float, sensitivity: float, false_positives: float
) -> None:
    point = choose_thresholds(mixed(), ThresholdRule.parse(text))["a"]
    assert point is not None
    assert point.threshold == threshold
    assert (point.sensitivity, point.false_positives) == (sensitivity, false_positives)
    right = 4 * sensitivity
    assert point.precision == right / (right + 2 * false_positives)
    assert point.f1 == pytest.approx(2 * right / (right + 2 * false_positives + 4))
    assert point.objects == 4


def test_classes_without_objects_take_the_common_threshold() -> None:
    points = choose_thresholds(mixed(), ThresholdRule.parse("sensitivity>=0.5"))
    assert points["b"] is None
    assert points["all"] == points["a"]
    assert get_label_thresholds(points, ("a", "b")) == (0.6, 0.6)


def test_a_class_that_is_never_found_has_no_best_f1() -> None:
    evaluator = judged(hits=[(0.9, 0)], misses=[(0.5, 1)], objects=[0, 1])
    points = choose_thresholds(evaluator, ThresholdRule.parse("max-f1"))
    assert points["b"] is None
    assert get_label_thresholds(points, ("a", "b")) == (0.9, 0.9)
    with pytest.raises(DataError, match="b: no object is found at any score"):
        choose_thresholds(evaluator, ThresholdRule.parse("sensitivity>=0.5"))


def test_every_class_has_its_own_threshold() -> None:
    evaluator = judged(hits=[(0.9, 0), (0.2, 1)], misses=[(0.5, 0)], objects=[0, 1])
    points = choose_thresholds(evaluator, ThresholdRule.parse("max F1"))
    assert get_label_thresholds(points, ("a", "b")) == (0.9, 0.2)
    # Together: 0.9 -> 2/3, 0.5 -> 2/4, 0.2 -> 4/5.
    assert points["all"] is not None
    assert points["all"].threshold == 0.2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "sensitivity>=0.9",
            r"a.*: no threshold reaches sensitivity >= 0.9; the highest sensitivity is 0.750, ",
        ),
        ("sensitivity>=1.5", "must be above 0 and at most 1"),
        ("sensitivity<=0.5", "rules are `max-f1`, `sensitivity>=0.9`, `false-positives<=1`"),
        ("false-positives<=-1", "rule 'false-positives<=-1' is unknown"),
        ("sensitivity>=-0.5", "rule 'sensitivity>=-0.5' is unknown"),
        ("", "rule '' is unknown"),
        ("best", "rule 'best' is unknown"),
    ],
)
def test_what_cannot_be_chosen_is_told(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        choose_thresholds(mixed(), ThresholdRule.parse(text))


def test_unreachable_bounds_and_empty_data() -> None:
    worst = judged(hits=[(0.3, 0)], misses=[(0.9, 0)], objects=[0], images=1)
    with pytest.raises(
        DataError,
        match=r"satisfies false positives per image <= 0.5; the lowest rate is 1 per image, with",
    ):
        choose_thresholds(worst, ThresholdRule.parse("false-positives<=0.5"))
    with pytest.raises(DataError, match="no object is found at any score"):
        choose_thresholds(
            judged(hits=[], misses=[(0.5, 0)], objects=[0]), ThresholdRule.parse("max-f1")
        )
    with pytest.raises(DataError, match=r"the 2 images contain no object of a, b"):
        choose_thresholds(
            judged(hits=[], misses=[(0.5, 0)], objects=[]), ThresholdRule.parse("max-f1")
        )


def test_rules_read_back_as_text() -> None:
    for text in ("max F1", "sensitivity >= 0.9", "false positives per image <= 0.25"):
        assert str(ThresholdRule.parse(text)) == text
