"""Curves, confusions, error types and images' quality, on cases counted by hand."""

from __future__ import annotations

import json

import hotcoco
import numpy as np
import pytest

from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.structures.evaluation import GroundTruth

HIT = (0.0, 0.0, 20.0, 20.0)
FAR = (100.0, 100.0, 20.0, 20.0)
Row = tuple[tuple[float, ...], int, float]


def judged(*images: tuple[list[Row], list[tuple[tuple[float, ...], int, bool]]]):
    """Images as rows of (xywh, label, score), and of (xywh, label, crowd)."""
    evaluator = DetectionEvaluator(("a", "b"))
    for image_id, (found, truth) in enumerate(images, start=1):
        evaluator.update_xywh(
            np.array([row[0] for row in found], np.float64).reshape(-1, 4),
            np.array([row[1] for row in found], np.int64),
            np.array([row[2] for row in found], np.float64),
            GroundTruth(
                image_id,
                (200, 200),
                np.array([row[0] for row in truth], np.float64).reshape(-1, 4),
                np.array([row[1] for row in truth], np.int64),
                np.array([row[2] for row in truth], np.bool_),
            ),
        )
    return evaluator


def test_confusion_by_hand() -> None:
    """One right, one wrong class, one on background, one missed; crowds and low scores nowhere."""
    details = judged(
        ([(HIT, 0, 0.9), (FAR, 0, 0.8)], [(HIT, 0, False), (FAR, 1, False)]),
        ([(FAR, 1, 0.7), (HIT, 1, 0.4)], [(HIT, 1, False)]),
        ([(HIT, 0, 0.9), ((2.0, 2.0, 9.0, 9.0), 0, 0.9)], [(HIT, 0, True)]),
    ).details()
    assert details["confusion"] == {
        "labels": ["a", "b", "background"],
        "matrix": [[1, 0, 0], [1, 0, 1], [0, 1, 0]],
    }
    json.dumps(details, allow_nan=False)


def test_confusion_keeps_to_the_limit_of_detections() -> None:
    evaluator = DetectionEvaluator(("a",), max_detections=(1, 2))
    boxes = np.array([HIT, FAR, (50.0, 50.0, 9.0, 9.0)])
    evaluator.update_xywh(
        boxes[::-1],
        np.zeros(3, np.int64),
        np.array([0.6, 0.8, 0.9]),
        GroundTruth(1, (200, 200), boxes[:2], np.zeros(2, np.int64)),
    )
    assert evaluator.details()["confusion"]["matrix"] == [[2, 0], [0, 0]]


def test_quality_and_surprise_by_hand() -> None:
    """F1 of one hit among two answers and one wanted is 2/3; the wrong class was 0.8 sure."""
    rows = judged(
        ([(HIT, 0, 0.9), (FAR, 1, 0.8), (FAR, 0, 0.2)], [(HIT, 0, False)]),
        ([], []),
        ([], [(HIT, 0, False)]),
    ).details()["images"]
    assert rows == [
        {"image_id": 1, "quality": pytest.approx(2 / 3), "surprise": 0.8},
        {"image_id": 2, "quality": 1.0, "surprise": 0.0},
        {"image_id": 3, "quality": 0.0, "surprise": 0.0},
    ]


def test_precision_curve_and_operating_point() -> None:
    """Two of three objects are found, with a miss between: precision 1 up to 1/3, 2/3 up to 2/3."""
    other = (50.0, 50.0, 20.0, 20.0)
    curves = judged(
        (
            [(HIT, 0, 0.9), ((150.0, 0.0, 9.0, 9.0), 0, 0.8), (FAR, 0, 0.7)],
            [(HIT, 0, False), (FAR, 0, False), (other, 0, False)],
        )
    ).details()["pr_curves"]
    assert list(curves) == ["all", "a"]
    curve = curves["a"]
    assert curve["recall"][33] == pytest.approx(0.33)
    assert curve["precision"][:34] == pytest.approx([1.0] * 34)
    assert curve["precision"][34:67] == pytest.approx([2 / 3] * 33)
    assert curve["precision"][67:] == [0.0] * 34
    assert (curve["score"][10], curve["score"][50], curve["score"][90]) == (0.9, 0.7, 0.0)
    assert curves["all"]["precision"] == curve["precision"]


def test_curves_by_confidence_by_hand() -> None:
    """Class a: hits at 0.9 and 0.3, a miss at 0.6, two objects. Class b: one object, one miss."""
    details = judged(
        ([(HIT, 0, 0.9), (FAR, 0, 0.6)], [(HIT, 0, False)]),
        ([(HIT, 0, 0.3), (FAR, 1, 0.05)], [(HIT, 0, False), (HIT, 1, False)]),
        ([(HIT, 0, 0.95)], [(HIT, 0, True)]),  # on a crowd: not counted
    ).details()
    curves = details["confidence_curves"]
    assert curves["confidence"] == pytest.approx([i / 100 for i in range(101)])
    rows = {
        i: tuple(curves[name][i] for name in ("precision", "recall", "f1")) for i in (0, 30, 60, 91)
    }
    assert rows[0] == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert rows[30] == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert rows[60] == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    assert rows[91] == (None, 0.0, 0.0)
    best = curves["classes"]["a"]
    assert best == pytest.approx({"confidence": 0, "precision": 2 / 3, "recall": 1.0, "f1": 0.8})
    assert curves["classes"]["b"]["f1"] == 0.0
    nothing = judged(([(HIT, 0, 0.9)], [(HIT, 0, True)])).details()
    assert "confidence_curves" not in nothing


def test_curves_by_confidence_reach_scores_in_percent() -> None:
    curves = judged(([(HIT, 0, 80.0)], [(HIT, 0, False)])).details()["confidence_curves"]
    assert (curves["confidence"][-1], curves["recall"][-1], curves["f1"][50]) == (80.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([(HIT, 1, 0.9)], "Cls"),
        ([((0.0, 0.0, 20.0, 6.0), 0, 0.9)], "Loc"),  # IoU 0.3
        ([((0.0, 0.0, 20.0, 6.0), 1, 0.9)], "Both"),
        ([(FAR, 0, 0.9), (HIT, 0, 0.8)], "Bkg"),
        ([(HIT, 0, 0.9), (HIT, 0, 0.95), ((60.0, 60.0, 20.0, 20.0), 0, 0.5)], "Dupe"),
        ([((60.0, 60.0, 20.0, 20.0), 0, 0.5)], "Miss"),
    ],
)
def test_error_types_by_hand(found: list[Row], kind: str) -> None:
    """One error of one kind: mending it alone wins the most AP of the six."""
    truth = [(HIT, 0, False), ((60.0, 60.0, 20.0, 20.0), 0, False)]
    if kind in ("Cls", "Loc", "Both", "Bkg"):
        truth = truth[:1]
    details = judged((found, truth)).details()
    errors = details["error_types"]
    main = {name: errors[name] for name in ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")}
    if kind == "Both":  # Taken away, the object is still not found: nothing is won.
        assert main["Loc"] == main["Cls"] == main["Bkg"] == main["Dupe"] == 0
        return
    assert main[kind] > 0
    assert max(main, key=lambda name: main[name]) == kind
    assert "TIDE" in details["notes"][0]


def test_mended_boxes_win_what_is_said() -> None:
    """AP 0 becomes 1 where the one box is moved or renamed."""
    one = [(HIT, 0, False)]
    moved = judged(([((0.0, 0.0, 20.0, 6.0), 0, 0.9)], one)).details()["error_types"]
    assert moved["Loc"] == pytest.approx(1.0, abs=1e-9)
    background = judged(([(FAR, 0, 0.9), (HIT, 0, 0.8)], one)).details()["error_types"]
    assert background["Bkg"] == pytest.approx(0.5, abs=1e-9)


def test_equal_scores_keep_their_order_when_an_error_is_fixed() -> None:
    """Recall 1/2 at precision 1 is 51 of 101 levels; without the two misses it is 1.

    The inaccurate box has the score of the hits and comes after them. `tidecv` puts it before them.
    """
    one = [(HIT, 0, False)]
    details = judged(
        ([(FAR, 0, 0.5)], one),
        ([(FAR, 0, 0.5)], one),
        ([(HIT, 0, 1.0)], one),
        ([(HIT, 0, 1.0), ((0.0, 0.0, 20.0, 8.0), 0, 1.0)], one),
    ).details()
    errors = details["error_types"]
    assert errors == dict.fromkeys(errors, 0.0) | {"Miss": errors["FN"], "FN": errors["FN"]}
    assert errors["Miss"] == pytest.approx(1 - 51 / 101)


def test_confusion_is_that_of_the_compiled_evaluator() -> None:
    generator = np.random.default_rng(3)
    records, annotations, results, images = [], [], [], []
    for image_id in range(1, 30):
        records.append({"id": image_id, "width": 200, "height": 200})
        truth = [
            ((*generator.uniform(0, 150, 2), *generator.uniform(15, 50, 2)), int(label), False)
            for label in generator.integers(0, 2, 4)
        ]
        found: list[Row] = []
        for box, label, _ in truth:
            near = tuple(np.array(box) + generator.normal(0, 4, 4))
            guess = label if generator.random() < 0.7 else 1 - label
            found.append((near, guess, float(generator.random())))
        images.append((found, truth))
        for box, label, _ in truth:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": list(box),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        results += [
            {"image_id": image_id, "category_id": label + 1, "bbox": list(box), "score": score}
            for box, label, score in found
        ]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    expected = hotcoco.COCO(
        {"images": records, "annotations": annotations, "categories": categories}
    )
    run = hotcoco.COCOeval(expected, expected.load_res(results), "bbox")
    run.evaluate()
    theirs = np.asarray(run.confusion_matrix(iou_thr=0.5, min_score=0.5)["matrix"])
    ours = np.asarray(judged(*images).details()["confusion"]["matrix"])
    assert (ours == theirs).all() or (ours == theirs.T).all(), (ours, theirs)
    assert (ours == theirs).all()
