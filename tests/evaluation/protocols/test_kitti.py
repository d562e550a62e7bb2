"""KITTI's AP: hand-computed cases of each rule, and equality with the rules written plainly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator, KittiOptions
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.detections import Detections

Box = Sequence[float]
CLASSES = ("Car", "Pedestrian")


def found(*rows: tuple[Box, float, int]) -> Detections:
    """Rows of (xyxy, score, label)."""
    return Detections(
        torch.tensor([row[0] for row in rows], dtype=torch.float64).reshape(-1, 4),
        torch.tensor([row[1] for row in rows], dtype=torch.float64),
        torch.tensor([row[2] for row in rows], dtype=torch.int64),
    )


def truth(image_id: int, *rows: tuple[Box, int, float, float], **more: Any) -> GroundTruth:
    """Rows of (xyxy, label, occluded, truncated)."""
    boxes = np.asarray([row[0] for row in rows], np.float64).reshape(-1, 4)
    xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    occluded, truncated = (np.asarray([row[i] for row in rows], np.float64) for i in (2, 3))
    labels = np.asarray([row[1] for row in rows], np.int64)
    values = {"occluded": occluded, "truncated": truncated, **more}
    return GroundTruth(image_id, (400, 1200), xywh, labels, **values)


def box(place: int, height: float = 50.0) -> Box:
    return (place * 100.0, 0.0, place * 100.0 + 50, height)


def ap(evaluator: KittiEvaluator, level: str = "easy", name: str = "Car") -> float | None:
    return evaluator.compute()[f"KITTI_AP_{level}"].per_class[name]


def with_enough(evaluator: KittiEvaluator, number: int = 41) -> None:
    """Cars that are all found at 0.9: 41 thresholds, precision 1 at each."""
    for i in range(number):
        evaluator.update(found((box(0), 0.9, 0)), truth(1000 + i, (box(0), 0, 0, 0)))


# --- Rules ---------------------------------------------------------------------------------------


def test_all_found_is_one() -> None:
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator)
    assert [ap(evaluator, level) for level in ("easy", "moderate", "hard")] == [1.0, 1.0, 1.0]
    metric = evaluator.compute()["KITTI_AP_easy"]
    assert (metric.value, metric.per_class) == (1.0, {"Car": 1.0, "Pedestrian": None})


def test_nothing_found_is_zero_and_nothing_seen_is_none() -> None:
    evaluator = KittiEvaluator(CLASSES)
    assert ap(evaluator) is None
    evaluator.update(found((box(0), 0.9, 0)), truth(0))
    assert ap(evaluator) is None
    evaluator.update(found(), truth(1, (box(0), 0, 0, 0)))
    assert ap(evaluator) == 0.0


def test_half_found_reaches_half_of_the_recall_points() -> None:
    """80 cars, 40 found: thresholds at recall 0, 1/40 ... 20/40; recall 0 is not counted."""
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator, 40)
    for i in range(40):
        evaluator.update(found(), truth(i, (box(0), 0, 0, 0)))
    assert ap(evaluator) == 20 / 40


def test_false_positives_by_hand() -> None:
    """A miss above every hit: precision 41/42 at the end, and never better before."""
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator)
    evaluator.update(found((box(3), 0.95, 0)), truth(0))
    assert ap(evaluator) == pytest.approx(41 / 42)


def test_few_objects_cannot_reach_one_and_that_is_told() -> None:
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator, 11)
    assert ap(evaluator) == 10 / 40
    notes = evaluator.details()["notes"]
    assert (
        "only 11 objects of Car count as easy; by KITTI's rules, AP cannot exceed 10/40" in notes[0]
    )


@pytest.mark.parametrize(
    ("height", "occluded", "truncated", "counted"),
    [
        (40, 0, 0.15, ("easy", "moderate", "hard")),
        (39, 0, 0.15, ("moderate", "hard")),
        (40, 1, 0.0, ("moderate", "hard")),
        (40, 0, 0.16, ("moderate", "hard")),
        (40, 2, 0.0, ("hard",)),
        (40, 0, 0.31, ("hard",)),
        (25, 2, 0.5, ("hard",)),
        (24, 0, 0.0, ()),
        (40, 3, 0.0, ()),
        (40, 0, 0.51, ()),
        (40, float("nan"), float("nan"), ("easy", "moderate", "hard")),
    ],
)
def test_who_counts_at_which_level(
    height: float, occluded: float, truncated: float, counted: tuple[str, ...]
) -> None:
    """One more object, not found, lowers recall where it counts."""
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator)
    evaluator.update(found(), truth(0, (box(5, height), 0, occluded, truncated)))
    for level in ("easy", "moderate", "hard"):
        assert (ap(evaluator, level) != 1.0) == (level in counted)


def test_detections_of_objects_that_do_not_count_do_not_hurt() -> None:
    hidden = (box(5), 0, 3.0, 0.0)
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator)
    evaluator.update(found((box(5), 0.99, 0)), truth(0, hidden))
    assert ap(evaluator, "hard") == 1.0
    evaluator.update(found((box(5), 0.99, 0), (box(5), 0.98, 0)), truth(1, hidden))
    assert ap(evaluator, "hard") == pytest.approx(41 / 42)  # only one of two is excused


def test_low_detections_are_ignored() -> None:
    evaluator = KittiEvaluator(CLASSES)
    with_enough(evaluator)
    evaluator.update(found((box(5, 30), 0.99, 0)), truth(0))
    assert ap(evaluator, "easy") == 1.0
    assert ap(evaluator, "moderate") == pytest.approx(41 / 42)


def test_neighbors_and_regions_excuse() -> None:
    evaluator = KittiEvaluator(("Car",))
    with_enough(evaluator)
    other = np.array([[300.0, 0, 50, 50], [500.0, 0, 400, 400]])
    where = {"other_boxes_xywh": other, "other_categories": ("VAN", "DontCare")}
    evaluator.update(
        found((box(3), 0.99, 0), (box(5), 0.98, 0), (box(6), 0.97, 0)), truth(0, **where)
    )
    assert ap(evaluator) == 1.0
    evaluator.update(  # mostly outside the region
        found(((470.0, 0.0, 520.0, 50.0), 0.99, 0)), truth(1, **where)
    )
    assert ap(evaluator) == pytest.approx(41 / 42)
    crowd = {"crowd": np.array([True])}
    evaluator.update(found((box(3), 0.99, 0)), truth(2, (box(3, 300), 0, 0, 0), **crowd))
    assert ap(evaluator) == pytest.approx(41 / 42)


def test_neighbors_among_the_classes_are_not_judged_themselves() -> None:
    evaluator = KittiEvaluator(("car", "van", "DontCare"))
    assert evaluator.evaluated_classes == ("car",)
    with_enough(evaluator)
    evaluator.update(
        found((box(3), 0.99, 0), (box(7), 0.9, 0)),
        truth(0, (box(3), 1, 0, 0), (box(7, 200), 2, -1, -1)),
    )
    assert ap(evaluator, name="car") == 1.0
    assert KittiEvaluator(("van", "bus")).evaluated_classes == (
        "van",
        "bus",
    )  # no car that it is next to


@pytest.mark.parametrize("has_van_class", [True, False])
def test_objects_choose_detections_in_the_order_of_the_file(has_van_class: bool) -> None:
    """Half of 80 images list the van first, which takes the only detection: recall 40/80."""
    car, van = (102.0, 100.0, 202.0, 160.0), (100.0, 100.0, 200.0, 160.0)
    far = (600.0, 100.0, 700.0, 160.0)
    evaluator = KittiEvaluator(("Car", "Van") if has_van_class else ("Car",))
    for i in range(80):
        # A pedestrian between both and a van far away shift the indices.
        names, boxes = ["Car", "Pedestrian", "Van", "Van"], [car, far, van, far]
        if i < 40:
            names, boxes = ["Van", "Pedestrian", "Van", "Car"], [van, far, far, car]
        rows = [
            (place, name, 0.0, 0.0)
            for name, place in zip(names, boxes, strict=True)
            if name in evaluator.classes
        ]
        others = [j for j, name in enumerate(names) if name not in evaluator.classes]
        evaluator.update(
            found((car, 0.8, 0)),
            truth(
                i,
                *[(place, evaluator.classes.index(name), *rest) for place, name, *rest in rows],
                other_boxes_xywh=np.asarray(
                    [(x, y, x2 - x, y2 - y) for x, y, x2, y2 in (boxes[j] for j in others)]
                ),
                other_categories=tuple(names[j] for j in others),
                other_positions=np.asarray(
                    [sum(name in evaluator.classes for name in names[:j]) for j in others]
                ),
            ),
        )
    assert ap(evaluator) == 20 / 40


def test_overlap_must_exceed_the_threshold_of_the_class() -> None:
    """IoU 0.7 exactly is no hit of a car, and one of a pedestrian."""
    for label, is_hit in ((0, False), (1, True)):
        evaluator = KittiEvaluator(CLASSES)
        shifted = (0.0, 0.0, 100.0, 70.0)
        evaluator.update(
            found((shifted, 0.9, label), (box(3), 0.8, label)),
            truth(0, ((0.0, 0.0, 100.0, 100.0), label, 0, 0), (box(3), label, 0, 0)),
        )
        # Two thresholds or one; the one at recall 0 is not counted.
        assert ap(evaluator, name=CLASSES[label]) == (1 / 40 if is_hit else 0.0)


def test_height_bins() -> None:
    evaluator = KittiEvaluator(("Car",), KittiOptions(heights=(20, 60)))
    with_enough(evaluator)  # 50 px high
    evaluator.update(found((box(3, 90), 0.99, 0)), truth(0))
    metrics = evaluator.compute()
    assert list(metrics)[3:] == ["KITTI_AP_height_20_60", "KITTI_AP_height_60_up"]
    assert metrics["KITTI_AP_height_20_60"].value == 1.0  # a high miss is none of its business
    assert metrics["KITTI_AP_height_60_up"].value is None
    assert "height bins" in evaluator.protocol


# --- Equality with the rules written down plainly -----------------------------------------------


def iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (one, other))
    return width * height / (areas - width * height)


def plain_ap(  # noqa: C901  # all rules in one place
    images: list[tuple[list[tuple[Box, float]], list[tuple[Box, bool]]]],
    least: float,
    low: float,
    regions: list[list[Box]],
) -> float:
    """Every threshold goes through every image; objects are (box, counts)."""

    def match(i: int, threshold: float | None) -> tuple[list[float], int]:
        detections, objects = images[i]
        free = [threshold is None or score >= threshold for _, score in detections]
        is_low = [each[3] - each[1] < low for each, _ in detections]
        scores = []
        for target, counts in objects:
            best: int | None = None
            for j, (each, score) in enumerate(detections):
                overlap = iou(each, target)
                if not free[j] or overlap <= least:
                    continue
                if best is None:
                    best = j
                elif threshold is None:
                    best = j if score > detections[best][1] else best
                elif not is_low[j] and (is_low[best] or overlap > iou(detections[best][0], target)):
                    best = j
            if best is not None:
                free[best] = False
                if counts and not is_low[best]:
                    scores.append(detections[best][1])
        wrong = 0
        for j, (each, _) in enumerate(detections):
            area = (each[2] - each[0]) * (each[3] - each[1])
            inside = [
                max(0.0, min(each[2], r[2]) - max(each[0], r[0]))
                * max(0.0, min(each[3], r[3]) - max(each[1], r[1]))
                for r in regions[i]
            ]
            wrong += free[j] and not is_low[j] and all(s / area <= least for s in inside)
        return scores, wrong

    number = sum(counts for _, objects in images for _, counts in objects)
    scores = sorted((s for i in range(len(images)) for s in match(i, None)[0]), reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(scores):
        left, right = (i + 1) / number, (i + 2) / number
        if i < len(scores) - 1 and right - recall < recall - left:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision = [0.0] * 41
    for t, threshold in enumerate(thresholds):
        made = [match(i, threshold) for i in range(len(images))]
        right_ones, wrong = sum(len(each[0]) for each in made), sum(each[1] for each in made)
        precision[t] = right_ones / (right_ones + wrong) if right_ones else 0.0
    return sum(max(precision[t:]) for t in range(1, 41)) / 40


def test_equals_the_rules_written_down_plainly() -> None:
    generator = np.random.default_rng(0)
    for case in range(12):
        evaluator = KittiEvaluator(("Car",), KittiOptions(iou={"car": 0.5}))
        plain: list[tuple[list[tuple[Box, float]], list[tuple[Box, bool]]]] = []
        regions: list[list[Box]] = []
        for i in range(int(generator.integers(5, 60))):
            corner = generator.integers(0, 4, (int(generator.integers(0, 6)), 2)) * 12.0
            size = generator.integers(32, 60, (len(corner), 2))
            boxes = np.concatenate((corner, corner + size), axis=1)
            hidden = generator.random(len(boxes)) < 0.3
            repeat = np.repeat(np.arange(len(boxes)), generator.integers(0, 4, len(boxes)))
            guesses = boxes[repeat] + generator.integers(-8, 9, (len(repeat), 4))
            scores = np.round(generator.random(len(guesses)), 1 if case % 2 else 6)
            region = [[0.0, 0.0, 70.0, 70.0]] if generator.random() < 0.2 else []
            others = {
                "other_boxes_xywh": np.asarray(region, np.float64).reshape(-1, 4),
                "other_categories": ("DontCare",) * len(region),
            }
            evaluator.update(
                found(*[(g.tolist(), float(s), 0) for g, s in zip(guesses, scores, strict=True)]),
                truth(
                    i,
                    *[(b.tolist(), 0, 2.0 * h, 0.0) for b, h in zip(boxes, hidden, strict=True)],
                    **others,
                ),
            )
            counts = [not h and b[3] - b[1] >= 40 for b, h in zip(boxes, hidden, strict=True)]
            plain.append(
                (
                    [(g.tolist(), float(s)) for g, s in zip(guesses, scores, strict=True)],
                    [(b.tolist(), bool(c)) for b, c in zip(boxes, counts, strict=True)],
                )
            )
            regions.append([tuple(each) for each in region])
        assert ap(evaluator) == pytest.approx(plain_ap(plain, 0.5, 40, regions), abs=1e-12)


def test_resampled_data_sets_equal_their_images_repeated() -> None:
    generator = np.random.default_rng(5)
    images = []
    for _ in range(30):
        rows = [(box(int(place)), 0, 0.0, 0.0) for place in generator.integers(0, 9, 3)]
        guess = [
            (box(int(p)), float(s), 0)
            for p, s in zip(
                generator.integers(0, 9, 4), np.round(generator.random(4), 1), strict=True
            )
        ]
        images.append((found(*guess), rows))
    evaluator = KittiEvaluator(CLASSES)
    for i, (prediction, rows) in enumerate(images):
        evaluator.update(prediction, truth(i, *rows))
    counts = generator.multinomial(30, np.full(30, 1 / 30), 4)
    resampled = evaluator.resample(counts)
    for row, weights in enumerate(counts):
        again = KittiEvaluator(CLASSES)
        for number, position in enumerate(np.repeat(np.arange(30), weights)):
            prediction, rows = images[position]
            again.update(prediction, truth(number, *rows))
        assert resampled["KITTI_AP_easy"][row] == pytest.approx(ap(again), abs=1e-12)
        assert resampled["KITTI_AP_easy/Car"][row] == pytest.approx(ap(again), abs=1e-12)
    assert np.isnan(resampled["KITTI_AP_easy/Pedestrian"]).all()
    assert evaluator.image_ids == tuple(range(30))


# --- Refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_refused() -> None:
    evaluator = KittiEvaluator(CLASSES)
    evaluator.update(found(), truth(1))
    with pytest.raises(DataError, match="image 1 is evaluated twice"):
        evaluator.update(found(), truth(1))
    with pytest.raises(DataError, match="image 2 has no annotated boxes"):
        evaluator.update(found(), GroundTruth(2, (9, 9)))
    with pytest.raises(RecipeError, match=r"iou names 'cars', .* did you mean 'Car'"):
        KittiEvaluator(CLASSES, KittiOptions(iou={"cars": 0.5}))


def test_missing_attributes_are_told() -> None:
    evaluator = KittiEvaluator(CLASSES)
    evaluator.update(found(), GroundTruth(1, (9, 9), np.ones((2, 4)), np.zeros(2, np.int64)))
    assert evaluator.details()["notes"][0].startswith("KITTI: 2 objects have neither")
