"""Drawings: what is colored, and what stays as it was."""

from __future__ import annotations

import numpy as np
import torch

from resnet_tasks.structures.evaluation import IGNORED, VOID, GroundTruth
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.predictions.truth_drawing import draw_annotations
from resnet_tasks.structures.run_lengths import encode_bitmap, encode_rectangle
from resnet_tasks.structures.tasks import get_task
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS
from resnet_tasks.visualization.canvas import ImageCanvas, draw_boxes, draw_map
from resnet_tasks.visualization.colors import Color, get_label_color
from resnet_tasks.visualization.drawing import (
    as_rgb8,
    draw_prediction,
    draw_truth,
    fit_truth,
    join_side_by_side,
)

assert BUILT_IN_TASKS  # the import registers the tasks
GRAY = np.full((60, 80, 3), 100, np.uint8)


def test_map_leaves_background_and_void() -> None:
    labels = np.zeros((60, 80), np.int64)
    labels[:10], labels[10:20] = 1, VOID
    before = GRAY.copy()
    drawn = draw_map(GRAY, labels, ("background", "a"))
    assert np.array_equal(GRAY, before)
    assert (drawn[10:] == 100).all()
    # Class `a` is the first one that has a color.
    expected = (0.55 * 100 + 0.45 * np.asarray(get_label_color(0))).astype(np.uint8)
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
    tasks = {"objects": get_task("detection"), "scene": get_task("semantic_segmentation")}
    drawn = draw_truth(
        GRAY, {"objects": truth, "scene": truth}, {"objects": ("a",), "scene": ("r",)}, tasks
    )
    assert tuple(drawn[50, 25]) == get_label_color(0)
    assert tuple(drawn[40, 25]) == (100, 100, 100)


def test_side_by_side_keeps_both_images() -> None:
    both = join_side_by_side(GRAY, GRAY + 50, ("truth", "prediction"), {})
    assert both.shape[1] == 164
    assert np.array_equal(both[-60:, :80], GRAY)
    assert np.array_equal(both[-60:, 84:], GRAY + 50)
    named = join_side_by_side(GRAY, GRAY + 50, ("truth", "prediction"), {"a": (1, 2, 255)})
    assert np.array_equal(named[: len(both)], both)
    assert (named[len(both) :] == (1, 2, 255)).all(axis=2).any()


def test_the_legend_has_the_classes_that_are_drawn() -> None:
    """The scene shows b on background and void, the detector a weak c and a strong d."""
    names = ("a", "b", "c", "d")
    labels = torch.zeros(60, 80, dtype=torch.int64)
    labels[:10] = 2
    boxes = torch.tensor([[10.0, 30, 40, 50], [20, 30, 50, 50]])
    found = Detections(boxes, torch.tensor([0.9, 0.1]), torch.tensor([3, 2]))
    predictions = {"objects": found, "scene": SegmentationMap(labels, None)}
    legend: dict[str, Color] = {}
    classes = {"objects": names, "scene": ("background", *names)}
    draw_prediction(GRAY, predictions, classes, legend=legend)
    assert legend == {"b": get_label_color(1), "d": get_label_color(3)}
    truth = GroundTruth(1, (60, 80), semantic=np.where(np.eye(60, 80) > 0, 1, VOID))
    tasks = {"scene": get_task("semantic_segmentation")}
    draw_truth(GRAY, {"scene": truth}, {"scene": classes["scene"]}, tasks, legend=legend)
    assert legend["a"] == get_label_color(0)


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
    tasks = {"kind": get_task("classification")}
    assert bands(draw_truth(gray, {"kind": truth}, {"kind": tuple("abc")}, tasks)) == [2, 0]


def blend(label: int) -> list[int]:
    """Gray under a mask in the color of a label."""
    return [int(0.55 * 100 + 0.45 * value) for value in get_label_color(label)]


def masked_truth() -> GroundTruth:
    """A triangle as a polygon, an object without a mask, and a rectangle as run lengths."""
    rectangle = encode_rectangle([50, 10, 70, 30], (60, 80))
    return GroundTruth(
        1,
        (60, 80),
        boxes_xywh=np.asarray([[10.0, 10, 30, 40], [2, 2, 4, 4], [50, 10, 20, 20]]),
        labels=np.asarray([0, 0, 1]),
        semantic=np.where(np.arange(80)[None] >= 40, 2, VOID) * np.ones((60, 1), np.int64),
        segmentations=([[10.0, 10, 40, 50, 10, 50]], None, rectangle),
    )


def test_true_masks_are_drawn_for_tasks_that_read_masks() -> None:
    names = {"objects": ("a", "b")}
    drawn = draw_truth(
        GRAY, {"objects": masked_truth()}, names, {"objects": get_task("instance_segmentation")}
    )
    assert drawn[40, 18].tolist() == blend(0)  # inside the triangle
    assert drawn[20, 35].tolist() == [100, 100, 100]  # inside its box, outside the triangle
    assert drawn[20, 60].tolist() == blend(1)
    assert tuple(drawn[10, 60]) == get_label_color(1)  # outline
    boxes_only = draw_truth(
        GRAY, {"objects": masked_truth()}, names, {"objects": get_task("detection")}
    )
    assert boxes_only[40, 18].tolist() == boxes_only[20, 60].tolist() == [100, 100, 100]


def test_true_masks_are_resized_with_the_drawing() -> None:
    image = np.full((120, 40, 3), 100, np.uint8)
    drawn = draw_truth(
        image,
        {"objects": masked_truth()},
        {"objects": ("a", "b")},
        {"objects": get_task("instance_segmentation")},
    )
    assert drawn[40, 30].tolist() == blend(1)
    assert drawn[40, 24].tolist() == [100, 100, 100]
    assert drawn[80, 9].tolist() == blend(0)


def test_pixels_below_masks_are_colored_once() -> None:
    canvas = ImageCanvas(GRAY)
    canvas.set_classes(("a", "b", "c"))
    truth = fit_truth(masked_truth(), {"masks"}, (60, 80))
    draw_annotations(canvas, truth, ("a", "b", "c"), {"masks", "semantic"})
    drawn = canvas.finish()
    assert drawn[20, 60].tolist() == blend(1)
    assert drawn[50, 60].tolist() == blend(2)


def test_a_class_has_one_color_in_all_heads_and_in_the_truth() -> None:
    """The scene has a background, and the detector only the last category."""
    box, score = torch.tensor([[10.0, 30, 40, 50]]), torch.tensor([0.9])
    label_map = torch.full((60, 80), 2)
    classes = {"objects": ("b",), "scene": ("background", "a", "b"), "instances": ("a", "b")}
    mask = encode_rectangle([10, 30, 40, 50], (60, 80))
    predictions = {
        "objects": Detections(box, score, torch.tensor([0])),
        "scene": SegmentationMap(label_map, None),
        "instances": InstanceSegmentation(box, score, torch.tensor([1]), (mask,)),
    }
    for name, prediction in predictions.items():
        drawn = draw_prediction(GRAY, {name: prediction}, classes, categories=("a", "b"))
        colors = {tuple(color) for color in drawn.reshape(-1, 3).tolist()}
        assert {tuple(blend(1)), get_label_color(1)} & colors
        assert not {tuple(blend(0)), get_label_color(0)} & colors
    truth = GroundTruth(1, (60, 80), semantic=np.full((60, 80), 2))
    tasks = {"scene": get_task("semantic_segmentation")}
    drawn = draw_truth(
        GRAY, {"scene": truth}, {"scene": classes["scene"]}, tasks, categories=("a", "b")
    )
    assert drawn[30, 30].tolist() == blend(1)


def test_touching_masks_of_a_class_have_outlines() -> None:
    size = (60, 80)
    masks = tuple(encode_rectangle([left, 10, left + 20, 30], size) for left in (10, 30))
    boxes = torch.tensor([[10.0, 10, 30, 30], [30, 10, 50, 30]])
    instances = InstanceSegmentation(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]), masks)
    canvas = ImageCanvas(GRAY)
    canvas.set_classes(("a",))
    canvas.draw_masks([(10, 10, np.ones((20, 20), np.bool_))], np.asarray([0]))
    drawn = canvas.finish()
    assert tuple(drawn[20, 29]) == get_label_color(0)
    assert drawn[20, 28].tolist() == blend(0)
    both = draw_prediction(GRAY, {"x": instances}, {"x": ("a",)})
    assert tuple(both[25, 29]) == tuple(both[25, 30]) == get_label_color(0)
    assert both[25, 20].tolist() == both[25, 40].tolist() == blend(0)


def test_names_do_not_hide_many_small_objects() -> None:
    """200 objects on 400 x 400 pixels: names are written once, with the number of objects."""
    image = np.full((400, 400, 3), 100, np.uint8)
    places = [(20 * (i % 20), 20 * (i // 20)) for i in range(200)]
    boxes = torch.tensor([[x + 4.0, y + 104, x + 16, y + 116] for x, y in places])
    cross = np.eye(12, dtype=np.bool_) | np.eye(12, dtype=np.bool_)[::-1]
    masks = tuple(encode_bitmap(cross, (400, 400), left=x + 4, top=y + 104) for x, y in places)
    instances = InstanceSegmentation(
        boxes, torch.full((200,), 0.9), torch.zeros(200, dtype=torch.int64), masks
    )
    drawn = draw_prediction(image, {"x": instances}, {"x": ("nucleus",)})
    colored = (drawn[104:] != 100).any(axis=2)
    # Nothing is drawn between the boxes, and every corner of a box is there.
    assert not colored[:, 18::20].any()
    assert all(tuple(drawn[y + 104, x + 4]) == get_label_color(0) for x, y in places)
    assert bands(drawn[:40]) == [0]
    few = draw_prediction(image, {"x": instances.select(np.arange(3))}, {"x": ("nucleus",)})
    assert bands(few[:40]) == []
    assert (few[95:103, 4:60] != 100).any()  # the name stands at the box
