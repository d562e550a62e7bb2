"""Pixel evaluation: hand-computed confusion matrices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.tasks import get_task


def predicted(labels: list[list[int]]) -> SegmentationMap:
    tensor = torch.tensor(labels)
    return SegmentationMap(tensor, torch.zeros(1, *tensor.shape))


def truth(labels: list[list[int]], image_id: int | str = 1) -> GroundTruth:
    array = np.asarray(labels, np.int64)
    return GroundTruth(image_id, (array.shape[0], array.shape[1]), semantic=array)


def test_perfect_is_one() -> None:
    evaluator = SegmentationEvaluator(("a", "b", "c"))
    labels = [[0, 1, 2], [2, 1, 0]]
    evaluator.update(predicted(labels), truth(labels))
    metrics = evaluator.compute()
    assert {name: metric.value for name, metric in metrics.items()} == {
        "mIoU": 1.0,
        "Dice": 1.0,
        "pixel_accuracy": 1.0,
        "mIoU_per_image": 1.0,
        "Dice_per_image": 1.0,
    }
    assert np.array_equal(evaluator.confusion, 2 * np.eye(3))


def test_all_wrong_is_zero() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    evaluator.update(predicted([[1, 0]]), truth([[0, 1]]))
    assert {metric.value for metric in evaluator.compute().values()} == {0.0}


def test_hand_computed_over_two_images_together() -> None:
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


def test_per_image_by_hand() -> None:
    """First image: a 1/2, b 2/3, c in neither. Second: a 0 (only predicted), c 1/2."""
    evaluator = SegmentationEvaluator(("a", "b", "c"))
    evaluator.update(predicted([[0, 1, 1, 1]]), truth([[0, 0, 1, 1]]))
    evaluator.update(predicted([[2, 0, 0]]), truth([[2, 2, VOID]], image_id=2))
    evaluator.update(predicted([[1]]), truth([[VOID]], image_id=3))  # nothing to judge
    metrics = evaluator.compute()
    iou = metrics["mIoU_per_image"]
    assert iou.value == pytest.approx(((1 / 2 + 2 / 3) / 2 + (0 + 1 / 2) / 2) / 2)
    assert iou.per_class == pytest.approx({"a": (1 / 2 + 0) / 2, "b": 2 / 3, "c": 1 / 2})
    dice = metrics["Dice_per_image"]
    assert dice.per_class == pytest.approx({"a": (2 / 3 + 0) / 2, "b": 4 / 5, "c": 2 / 3})
    assert "absent from both: not counted, from one: 0" in evaluator.protocol


def test_per_image_without_background() -> None:
    evaluator = SegmentationEvaluator(("background", "nucleus"))
    evaluator.update(predicted([[0, 0, 1, 1]]), truth([[0, 0, 0, 1]]))
    evaluator.update(predicted([[0, 0]]), truth([[0, 0]], image_id=2))  # no nucleus in either
    metrics = evaluator.compute()
    assert metrics["Dice_per_image_foreground"].value == pytest.approx(2 / 3)
    assert metrics["mIoU_per_image_foreground"].per_class == {"nucleus": 1 / 2}
    assert metrics["mIoU_per_image"].value == pytest.approx(((2 / 3 + 1 / 2) / 2 + 1) / 2)


def test_resampled_data_sets_equal_their_images_repeated() -> None:
    generator = np.random.default_rng(0)
    classes = ("background", "b", "c")
    images = [generator.integers(0, 3 if i else 1, (2, 5, 6)).tolist() for i in range(6)]
    evaluator = SegmentationEvaluator(classes)
    for i, (found, expected) in enumerate(images):
        evaluator.update(predicted(found), truth(expected, image_id=i))
    counts = np.array([[1] * 6, [6, 0, 0, 0, 0, 0], [0, 2, 3, 0, 0, 1]])
    resampled = evaluator.resample(counts)
    assert evaluator.image_ids == tuple(range(6))
    for row, weights in enumerate(counts):
        again = SegmentationEvaluator(classes)
        for number, position in enumerate(np.repeat(np.arange(6), weights)):
            found, expected = images[position]
            again.update(predicted(found), truth(expected, image_id=number))
        for name, metric in again.compute().items():
            for key, value in (
                (name, metric.value),
                *((f"{name}/{each}", value) for each, value in metric.per_class.items()),
            ):
                got = resampled[key][row]
                assert np.isnan(got) if value is None else got == pytest.approx(value, abs=1e-12)


def test_details_hold_confusion_images_and_reliability() -> None:
    """Of four pixels, two right at 0.95 and 0.55, one wrong at 0.95, one void."""
    probs = torch.tensor([[[0.95, 0.55, 0.05, 0.5]], [[0.05, 0.45, 0.95, 0.5]]])
    evaluator = SegmentationEvaluator(("a", "b"))
    evaluator.update(
        SegmentationMap(probs.argmax(0), probs), truth([[0, 0, 0, VOID]], image_id="x")
    )
    told = evaluator.details()
    assert told["confusion"] == {"labels": ["a", "b"], "matrix": [[2, 1], [0, 0]]}
    assert told["images"] == [
        {
            "image_id": "x",
            "quality": pytest.approx((2 / 3 + 0) / 2),
            "surprise": pytest.approx(0.95 / 3),
        }
    ]
    assert told["reliability"]["confidence"] == pytest.approx([0.55, 0.95])
    assert told["reliability"]["accuracy"] == [1.0, 0.5]
    assert told["reliability"]["count"] == [1, 2]
    assert told["reliability"]["ece"] == pytest.approx((0.45 + 2 * 0.45) / 3)
    json.dumps(told)


def test_label_maps_alone_have_no_reliability() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    evaluator.update_labels(np.array([[0, 1]], np.uint8), truth([[0, 0]]))
    told = evaluator.details()
    assert "reliability" not in told
    assert told["images"][0]["surprise"] == 0.5
    with pytest.raises(DataError, match="image 1 is evaluated twice"):
        evaluator.update_labels(np.array([[0, 1]]), truth([[0, 0]]))


def test_broken_input_names_the_image() -> None:
    evaluator = SegmentationEvaluator(("a", "b"))
    with pytest.raises(DataError, match=r"image 'x': the predicted label map has size \(1, 2\)"):
        evaluator.update(predicted([[0, 1]]), truth([[0, 1, 1]], image_id="x"))
    with pytest.raises(DataError, match="image 3: the prediction has label 2; allowed are 0 to 1"):
        evaluator.update(predicted([[0, 2]]), truth([[0, 1]], image_id=3))
    with pytest.raises(DataError, match="image 4: the ground truth has label -2"):
        evaluator.update(predicted([[0, 1]]), truth([[0, -2]], image_id=4))
    with pytest.raises(DataError, match="image 5 has no annotated pixels"):
        evaluator.update(predicted([[0, 1]]), GroundTruth(5, (1, 2)))
    assert evaluator.confusion.sum() == 0


def test_task_builds_it_and_it_says_what_it_does() -> None:
    evaluator = get_task("semantic_segmentation").build_evaluator(("a", "b"))
    assert isinstance(evaluator, SegmentationEvaluator)
    assert "void pixels excluded" in evaluator.protocol
