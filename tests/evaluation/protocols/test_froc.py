"""FROC: hand-computed sensitivities, ties, crowds, patients, AUROC, resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.protocols.froc import (
    RATES,
    FrocEvaluator,
    FrocOptions,
    compute_froc_curve,
)
from resnet_tasks.structures.evaluation import DetailedEvaluator, GroundTruth, ResamplableEvaluator
from resnet_tasks.structures.predictions.detections import Detections

LESION = (10.0, 10.0, 20.0, 20.0)
OTHER = (50.0, 50.0, 20.0, 20.0)
FAR = (150.0, 150.0, 170.0, 170.0)


def xyxy(xywh: Sequence[float]) -> tuple[float, ...]:
    x, y, width, height = xywh
    return (x, y, x + width, y + height)


def found(*rows: tuple[Sequence[float], float] | tuple[Sequence[float], float, int]) -> Detections:
    """Rows of (xyxy, score, label = 0)."""
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float32),
        torch.tensor([row[2] if len(row) == 3 else 0 for row in rows], dtype=torch.int64),
    )


def truth(
    image_id: int,
    *boxes: Sequence[float],
    labels: Sequence[int] | None = None,
    crowd: Sequence[bool] | None = None,
    group: str | None = None,
) -> GroundTruth:
    return GroundTruth(
        image_id,
        (200, 200),
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(labels if labels is not None else [0] * len(boxes), np.int64),
        None if crowd is None else np.asarray(crowd, np.bool_),
        group=group,
    )


def values(evaluator: FrocEvaluator) -> dict[str, float | None]:
    return {name: each.value for name, each in evaluator.compute().items()}


def test_hand_computed_over_eight_images() -> None:
    """Lesions at 0.9, 0.7, 0.4 and one never; false positives at 0.8, 0.5 and 0.3, of 8 images.

    1/8 per image allows one: down to just above 0.5, so lesions at 0.9 and 0.7. 1/4 allows two:
    down to just above 0.3, three lesions.
    """
    evaluator = FrocEvaluator(("a",))
    evaluator.update(found((xyxy(LESION), 0.9), (FAR, 0.8)), truth(0, LESION))
    evaluator.update(found((xyxy(LESION), 0.7), (FAR, 0.5)), truth(1, LESION, OTHER))
    evaluator.update(found((xyxy(LESION), 0.4), (FAR, 0.3)), truth(2, LESION))
    for i in range(3, 8):
        evaluator.update(found(), truth(i))
    got = values(evaluator)
    expected = [2 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4, 3 / 4]
    assert [got[f"sensitivity_at_{rate:g}"] for rate in RATES] == expected
    assert got["CPM"] == pytest.approx(np.mean(expected))
    # Three images with lesions score 0.9, 0.7 and 0.4, five without score nothing.
    assert got["image_AUROC"] == 1.0
    # Each image is a patient: the one with two lesions is found by either.
    patients = [2 / 3, 1, 1, 1, 1, 1, 1]
    assert [got[f"patient_sensitivity_at_{rate:g}"] for rate in RATES] == pytest.approx(patients)


def test_equal_scores_count_together() -> None:
    """At 0.5 a lesion and two false positives: one per image admits neither, two admit both."""
    evaluator = FrocEvaluator(("a",))
    far = (180.0, 180.0, 190.0, 190.0)
    evaluator.update(found((xyxy(LESION), 0.5), (FAR, 0.5), (far, 0.5)), truth(0, LESION))
    got = values(evaluator)
    assert got["sensitivity_at_1"] == 0.0
    assert got["sensitivity_at_2"] == 1.0


def test_more_hits_of_one_lesion_are_neither_true_nor_false() -> None:
    evaluator = FrocEvaluator(("a",))
    twice = (found((xyxy(LESION), 0.4), (xyxy(LESION), 0.9)), truth(0, LESION))
    evaluator.update(*twice)
    got = values(evaluator)
    assert got["sensitivity_at_0.125"] == 1.0
    assert evaluator.details()["froc"] == {
        "false_positives": [0.0, 0.0],
        "sensitivity": [0.0, 1.0],
    }


def test_iou_and_center_decide_differently() -> None:
    """The right half of a lesion: IoU 1/2; its center lies inside. A tenth of it: IoU 0.1."""
    half, tenth = (20.0, 10.0, 30.0, 30.0), (10.0, 10.0, 12.0, 30.0)
    around = (11.0, 11.0, 80.0, 80.0)  # overlaps, its center is outside
    for box, options, is_hit in (
        (half, FrocOptions(), True),
        (half, FrocOptions(iou=0.51), False),
        (tenth, FrocOptions(), False),
        (tenth, FrocOptions(hit="center"), True),
        (around, FrocOptions(hit="center"), False),
    ):
        evaluator = FrocEvaluator(("a",), options)
        evaluator.update(found((box, 0.9)), truth(0, LESION))
        assert values(evaluator)["sensitivity_at_0.125"] == float(is_hit)
        # A miss is also a false positive.
        assert evaluator.details()["froc"]["false_positives"][-1] == float(not is_hit)


def test_crowd_regions_are_neither_lesions_nor_misses() -> None:
    evaluator = FrocEvaluator(("a",))
    region = (100.0, 100.0, 80.0, 80.0)
    evaluator.update(
        found((FAR, 0.9), (xyxy(LESION), 0.5)), truth(0, LESION, region, crowd=[False, True])
    )
    evaluator.update(found((FAR, 0.9)), truth(1, region, crowd=[True]))
    assert values(evaluator)["sensitivity_at_0.125"] == 1.0
    assert values(evaluator)["image_AUROC"] is None  # the second image is neither


def test_classes_are_apart_and_together() -> None:
    evaluator = FrocEvaluator(("a", "b", "c"))
    evaluator.update(
        found((xyxy(LESION), 0.9, 0), (xyxy(OTHER), 0.8, 0)), truth(0, LESION, OTHER, labels=[0, 1])
    )
    metric = evaluator.compute()["sensitivity_at_0.125"]
    assert metric.per_class == {"a": 1.0, "b": 0.0, "c": None}
    assert metric.value == 0.5
    assert evaluator.compute()["sensitivity_at_1"].value == 0.5  # found with the wrong class


def test_patients_are_groups() -> None:
    """Patient x: two images, one lesion found. Patient y: none found."""
    evaluator = FrocEvaluator(("a",))
    evaluator.update(found(), truth(0, LESION, group="x"))
    evaluator.update(found((xyxy(LESION), 0.6)), truth(1, LESION, group="x"))
    evaluator.update(found(), truth(2, LESION, group="y"))
    got = values(evaluator)
    assert got["sensitivity_at_1"] == pytest.approx(1 / 3)
    assert got["patient_sensitivity_at_1"] == 0.5
    assert evaluator.details()["notes"] == ["FROC: 3 lesions in 3 images of 2 groups."]


def test_nothing_seen_and_no_lesion() -> None:
    evaluator = FrocEvaluator(("a",))
    assert set(values(evaluator).values()) == {None}
    evaluator.update(found((FAR, 0.9)), truth(0))
    assert set(values(evaluator).values()) == {None}
    assert "froc" not in evaluator.details()


def test_auroc_of_images_by_hand() -> None:
    """With lesions 0.9 and 0.5, without 0.5 and nothing: of 4 pairs 3 right, one tie."""
    evaluator = FrocEvaluator(("a", "b"))
    for i, (score, boxes) in enumerate(((0.9, [LESION]), (0.5, [LESION]), (0.5, []), (None, []))):
        evaluator.update(found(*([(FAR, score)] if score else [])), truth(i, *boxes))
    metric = evaluator.compute()["image_AUROC"]
    assert metric.value == 3.5 / 4
    assert metric.per_class == {"a": 3.5 / 4, "b": None}


def test_curve_by_hand() -> None:
    rates, sensitivity = compute_froc_curve(np.array([0.9, -np.inf, 0.2]), np.array([0.5, 0.2]), 2)
    assert rates.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert sensitivity.tolist() == pytest.approx([0.0, 1 / 3, 1 / 3, 2 / 3])


def random_images(number: int, *, groups: bool) -> list[tuple[Detections, GroundTruth]]:
    generator = np.random.default_rng(0)
    made = []
    for i in range(number):
        objects = generator.integers(0, 9, (int(generator.integers(0, 4)), 2)) * 20.0
        boxes = np.concatenate((objects, np.full((len(objects), 2), 18.0)), axis=1)
        places = generator.integers(0, 9, (int(generator.integers(0, 8)), 2)) * 20.0
        rows = [
            (xyxy((x, y, 18, 18)), float(np.round(generator.random(), 1)), int(label))
            for (x, y), label in zip(places, generator.integers(0, 2, len(places)), strict=True)
        ]
        labels = generator.integers(0, 2, len(boxes))
        group = f"p{i // 2}" if groups else None
        made.append((found(*rows), truth(i, *boxes, labels=labels.tolist(), group=group)))
    return made


def test_resampled_data_sets_equal_their_images_repeated() -> None:
    images = random_images(12, groups=False)
    evaluator = FrocEvaluator(("a", "b"))
    for prediction, expected in images:
        evaluator.update(prediction, expected)
    assert isinstance(evaluator, ResamplableEvaluator)
    assert isinstance(evaluator, DetailedEvaluator)
    generator = np.random.default_rng(1)
    counts = generator.multinomial(12, np.full(12, 1 / 12), 5)
    resampled = evaluator.resample(np.concatenate((np.ones((1, 12), np.int64), counts)))
    for row, weights in enumerate(counts, start=1):
        repeated = FrocEvaluator(("a", "b"))
        positions = np.repeat(np.arange(12), weights)
        for number, position in enumerate(positions):
            prediction, expected = images[position]
            again = truth(number, *(expected.boxes_xywh if expected.boxes_xywh is not None else ()))
            labels = expected.labels
            assert labels is not None
            repeated.update(prediction, GroundTruth(number, again.size, again.boxes_xywh, labels))
        for name, metric in repeated.compute().items():
            if not name.startswith("patient"):  # a patient drawn twice counts twice; here: apart
                assert resampled[name][row] == pytest.approx(metric.value, nan_ok=True)
    for name, metric in evaluator.compute().items():
        assert resampled[name][0] == pytest.approx(metric.value)


def test_a_patient_drawn_twice_counts_twice() -> None:
    evaluator = FrocEvaluator(("a",))
    evaluator.update(found((xyxy(LESION), 0.6)), truth(0, LESION, group="x"))
    evaluator.update(found(), truth(1, LESION, group="y"))
    evaluator.update(found(), truth(2, group="y"))
    drawn = evaluator.resample(np.array([[2, 1, 1], [0, 2, 2], [1, 0, 0]]))
    assert drawn["patient_sensitivity_at_1"] == pytest.approx([2 / 3, 0.0, 1.0])


def test_broken_input_names_the_image() -> None:
    evaluator = FrocEvaluator(("a",))
    with pytest.raises(DataError, match=r"image 4: a detection has a non-finite score .*nan"):
        evaluator.update(found((FAR, float("nan"))), truth(4))
    with pytest.raises(DataError, match="image 4: a detection has label 1; allowed are 0 to 0"):
        evaluator.update(found((FAR, 0.5, 1)), truth(4))
    with pytest.raises(DataError, match="image 5 has no annotated boxes"):
        evaluator.update(found(), GroundTruth(5, (9, 9)))
    evaluator.update(found(), truth(6))
    with pytest.raises(DataError, match="image 6 is evaluated twice"):
        evaluator.update(found(), truth(6))
    assert evaluator.image_ids == (6,)


def test_protocol_says_what_a_hit_is() -> None:
    assert "IoU >= 0.3" in FrocEvaluator(("a",), FrocOptions(iou=0.3)).protocol
    assert "center lies inside" in FrocEvaluator(("a",), FrocOptions(hit="center")).protocol
