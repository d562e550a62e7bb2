"""Pixel evaluation: hand-computed confusion matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.registry import EVALUATORS
from resnet_tasks.structures import VOID, SegmentationMap, Truth


def predicted(labels: list[list[int]]) -> SegmentationMap:
    tensor = torch.tensor(labels)
    return SegmentationMap(tensor, torch.zeros(1, *tensor.shape))


def truth(labels: list[list[int]], image_id: int | str = 1) -> Truth:
    array = np.asarray(labels, np.int64)
    return Truth(image_id, (array.shape[0], array.shape[1]), semantic=array)


def test_perfect_is_one() -> None:
    evaluator = SegmentationEvaluator(("a", "b", "c"))
    labels = [[0, 1, 2], [2, 1, 0]]
    evaluator.update(predicted(labels), truth(labels))
    metrics = evaluator.compute()
    assert {name: metric.value for name, metric in metrics.items()} == {
        "mIoU": 1.0,
        "Dice": 1.0,
        "pixel_accuracy": 1.0,
    }
    assert np.array_equal(evaluator.confusion, 2 * np.eye(3))


def test_all_wrong_is_zero() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    evaluator.update(predicted([[1, 0]]), truth([[0, 1]]))
    assert {metric.value for metric in evaluator.compute().values()} == {0.0}


def test_hand_computed_over_two_pictures_together() -> None:
    """Truth a: 3 right, 1 taken for b. Truth b: 2 right, 2 taken for c. Truth holds no c, no d."""
    evaluator = SegmentationEvaluator(("a", "b", "c", "d"))
    evaluator.update(predicted([[0, 0, 0, 1]]), truth([[0, 0, 0, 0]]))
    evaluator.update(predicted([[1, 1], [2, 2]]), truth([[1, 1], [1, 1]], image_id="second"))
    metrics = evaluator.compute()
    assert evaluator.confusion.tolist() == [[3, 1, 0, 0], [0, 2, 2, 0], [0] * 4, [0] * 4]
    assert metrics["mIoU"].per_class == {"a": 3 / 4, "b": 2 / 5, "c": None, "d": None}
    assert metrics["mIoU"].value == pytest.approx((3 / 4 + 2 / 5) / 2)
    assert metrics["Dice"].per_class == {"a": 6 / 7, "b": 4 / 7, "c": None, "d": None}
    assert metrics["Dice"].value == pytest.approx((6 / 7 + 4 / 7) / 2)
    assert metrics["pixel_accuracy"].value == 5 / 8
    assert metrics["pixel_accuracy"].per_class == {"a": 3 / 4, "b": 1 / 2, "c": None, "d": None}


def test_void_pixels_do_not_count() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    evaluator.update(predicted([[0, 1, 1]]), truth([[0, VOID, 1]]))
    assert evaluator.confusion.sum() == 2
    assert evaluator.compute()["mIoU"].value == 1.0


def test_empty_truth_has_no_value() -> None:
    evaluator = SegmentationEvaluator(("background", "b"))
    assert {metric.value for metric in evaluator.compute().values()} == {None}
    evaluator.update(predicted([[0, 1]]), truth([[VOID, VOID]]))
    assert {metric.value for metric in evaluator.compute().values()} == {None}


def test_predicting_nothing_of_a_class_is_zero_for_it() -> None:
    evaluator = SegmentationEvaluator(("background", "nucleus"))
    evaluator.update(predicted([[0, 0, 0, 0]]), truth([[0, 0, 0, 1]]))
    metrics = evaluator.compute()
    assert metrics["mIoU"].per_class == {"background": 3 / 4, "nucleus": 0.0}
    assert metrics["Dice_foreground"].value == 0.0


def test_background_is_also_left_out() -> None:
    evaluator = SegmentationEvaluator(("background", "nucleus"))
    evaluator.update(predicted([[0, 0, 1, 1]]), truth([[0, 0, 0, 1]]))
    metrics = evaluator.compute()
    assert metrics["mIoU"].value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics["mIoU_foreground"].value == pytest.approx(1 / 2)
    assert metrics["Dice_foreground"].value == pytest.approx(2 / 3)
    assert metrics["Dice_foreground"].per_class == {"nucleus": pytest.approx(2 / 3)}
    assert "background" in evaluator.protocol
    plain = SegmentationEvaluator(("nucleus",))
    assert "mIoU_foreground" not in plain.compute()
    assert "background" not in plain.protocol


def test_broken_input_names_the_picture() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    with pytest.raises(DataError, match=r"image 'x': the predicted map has size \(1, 2\)"):
        evaluator.update(predicted([[0, 1]]), truth([[0, 1, 1]], image_id="x"))
    with pytest.raises(
        DataError, match="image 3: its prediction holds label 2; allowed are 0 to 1"
    ):
        evaluator.update(predicted([[0, 2]]), truth([[0, 1]], image_id=3))
    with pytest.raises(DataError, match="image 4: its truth holds label -2"):
        evaluator.update(predicted([[0, 1]]), truth([[0, -2]], image_id=4))
    with pytest.raises(DataError, match="image 5 has no annotated pixels"):
        evaluator.update(predicted([[0, 1]]), Truth(5, (1, 2)))
    assert evaluator.confusion.sum() == 0


def test_is_registered_and_says_what_it_does() -> None:
    evaluator = EVALUATORS.get("semantic_segmentation")(("a", "b"))
    assert isinstance(evaluator, SegmentationEvaluator)
    assert "void pixels left out" in evaluator.protocol
