"""Drawings: what is colored, and what stays as it was."""

from __future__ import annotations

import numpy as np
import torch

from resnet_tasks.structures.evaluation import IGNORED, VOID, GroundTruth
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.visualization.drawing import (
    as_rgb8,
    draw_boxes,
    draw_heat,
    draw_map,
    draw_prediction,
    draw_truth,
    get_label_color,
    join_side_by_side,
)

GRAY = np.full((60, 80, 3), 100, np.uint8)


def test_colors_of_labels_last_and_differ() -> None:
    colors = [get_label_color(i) for i in range(30)]
    assert len(set(colors)) == 30
    assert all(0 <= value <= 255 for color in colors for value in color)
    assert get_label_color(7) == colors[7]


def test_map_leaves_background_and_void() -> None:
    labels = np.zeros((60, 80), np.int64)
    labels[:10], labels[10:20] = 1, VOID
    before = GRAY.copy()
    drawn = draw_map(GRAY, labels, ("background", "a"))
    assert np.array_equal(GRAY, before)
    assert (drawn[10:] == 100).all()
    expected = (0.55 * 100 + 0.45 * np.asarray(get_label_color(1))).astype(np.uint8)
    assert np.abs(drawn[:10].astype(int) - expected).max() <= 1
    assert (draw_map(GRAY, labels, ("road", "a"))[20:] != 100).any()


def test_box_has_its_color_and_the_image_stays() -> None:
    before = GRAY.copy()
    drawn = draw_boxes(
        GRAY, np.asarray([[10, 30, 40, 50]], np.float32), np.asarray([1]), ("a", "b")
    )
    assert np.array_equal(GRAY, before)
    assert tuple(drawn[50, 25]) == get_label_color(1)
    assert tuple(drawn[40, 40]) == get_label_color(1)
    assert tuple(drawn[40, 25]) == (100, 100, 100)
    none = draw_boxes(GRAY, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ("a",))
    assert np.array_equal(none, GRAY)


def test_weak_detections_are_not_drawn() -> None:
    boxes = torch.tensor([[10.0, 30, 40, 50]])
    found = Detections(boxes, torch.tensor([0.4]), torch.tensor([0]))
    predictions = {"objects": found}
    assert np.array_equal(draw_prediction(GRAY, predictions, {"objects": ("a",)}), GRAY)
    drawn = draw_prediction(GRAY, predictions, {"objects": ("a",)}, least_score=0.3)
    assert tuple(drawn[50, 25]) == get_label_color(0)


def test_boxes_lie_above_maps() -> None:
    labels = torch.zeros(60, 80, dtype=torch.int64)
    found = Detections(torch.tensor([[10.0, 30, 40, 50]]), torch.tensor([0.9]), torch.tensor([1]))
    probs = torch.ones(1, 60, 80)
    predictions = {"objects": found, "scene": SegmentationMap(labels, probs)}
    drawn = draw_prediction(GRAY, predictions, {"objects": ("a", "b"), "scene": ("road",)})
    assert tuple(drawn[50, 25]) == get_label_color(1)
    assert tuple(drawn[40, 25]) != (100, 100, 100)


def test_truth_is_drawn_as_predictions_are() -> None:
    truth = GroundTruth(
        1,
        (60, 80),
        boxes_xywh=np.asarray([[10.0, 30, 30, 20]]),
        labels=np.asarray([0]),
        semantic=np.full((60, 80), VOID),
    )
    drawn = draw_truth(
        GRAY, {"objects": truth, "scene": truth}, {"objects": ("a",), "scene": ("r",)}, {"objects"}
    )
    assert tuple(drawn[50, 25]) == get_label_color(0)
    assert tuple(drawn[40, 25]) == (100, 100, 100)


def test_side_by_side_keeps_both_images() -> None:
    both = join_side_by_side(GRAY, GRAY + 50, ("truth", "prediction"))
    assert both.shape[1] == 164
    assert np.array_equal(both[-60:, :80], GRAY)
    assert np.array_equal(both[-60:, 84:], GRAY + 50)


def test_any_channels_become_rgb8() -> None:
    values = np.asarray([[[0.0, 0.5, 1.0, 0.2]]], np.float32)
    assert as_rgb8(values).tolist() == [[[0, 128, 255]]]
    assert as_rgb8(values[:, :, 1:2]).tolist() == [[[128, 128, 128]]]


def bands(drawn: np.ndarray) -> list[int]:
    """Labels whose color fills the left column, top to bottom."""
    colors = {get_label_color(i): i for i in range(10)}
    column = [colors.get(tuple(map(int, pixel))) for pixel in drawn[:, 1]]
    return list(dict.fromkeys(each for each in column if each is not None))


def test_classes_of_the_whole_image_are_written_best_first() -> None:
    gray, names = np.full((240, 320, 3), 100, np.uint8), {"kind": tuple("abcde")}
    probs = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05])
    assert bands(draw_prediction(gray, {"kind": Classification(probs)}, names)) == [1, 3, 0]
    several = Classification(torch.tensor([0.9, 0.1, 0.6, 0.4, 0.95]), is_multi_label=True)
    assert bands(draw_prediction(gray, {"kind": several}, names)) == [4, 0, 2]
    assert bands(draw_prediction(gray, {"kind": several}, names, least_score=0.92)) == [4]
    nothing = Classification(torch.zeros(5), is_multi_label=True)
    assert np.array_equal(draw_prediction(gray, {"kind": nothing}, names), gray)
    assert (gray == 100).all()


def test_true_labels_are_written_unknown_ones_are_not() -> None:
    gray = np.full((240, 320, 3), 100, np.uint8)
    truth = GroundTruth(1, (240, 320), image_labels=np.asarray([2, IGNORED, 0]))
    assert bands(draw_truth(gray, {"kind": truth}, {"kind": tuple("abc")}, {"kind"})) == [2, 0]


def test_heat_leaves_cold_places_as_they_are() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    heat = np.zeros((40, 60), np.float32)
    heat[10:20, 10:20] = 1.0
    drawn = draw_heat(image, heat, (30.0, 5.0, 50.0, 35.0))
    assert (drawn[0, 0] == 90).all()
    assert (drawn[15, 15] != 90).any()
    assert (drawn[5, 40] == 255).all()
    assert (image == 90).all()
