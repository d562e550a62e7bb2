"""Instances: selection, drawings, results and comparison keep boxes and masks together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import encode_bitmap, encode_rectangle, resize_mask
from resnet_tasks.visualization.canvas import ImageCanvas
from resnet_tasks.visualization.colors import get_label_color

SIZE = (40, 50)
BOXES = [[0, 0, 10, 8], [10, 10, 30, 30], [20, 0, 50, 40]]


def build_instances(*, as_tensors: bool = False) -> InstanceSegmentation:
    kind = torch.tensor if as_tensors else np.asarray
    return InstanceSegmentation(
        kind(np.asarray(BOXES, np.float32)),
        kind(np.asarray([0.9, 0.5, 0.25], np.float32)),
        kind(np.asarray([0, 1, 1])),
        tuple(encode_rectangle(box, SIZE) for box in BOXES),
    )


@pytest.mark.parametrize("as_tensors", [False, True])
def test_filter_and_select_keep_the_masks_of_their_boxes(as_tensors: bool) -> None:
    instances = build_instances(as_tensors=as_tensors)
    kept = instances.filter_by_score(0.5)
    assert kept.boxes.tolist() == BOXES[:2]
    assert kept.segmentations == instances.segmentations[:2]
    kept = instances.filter_by_score([0.95, 0.2])
    assert kept.segmentations == instances.segmentations[1:]
    kept = instances.select(np.asarray([True, False, True]))
    assert kept.segmentations == (instances.segmentations[0], instances.segmentations[2])
    assert len(instances.select(np.asarray([], np.int64))) == 0


def test_results_have_boxes_and_masks_as_text() -> None:
    entries = build_instances().to_results(7, (3, 8))
    assert json.loads(json.dumps(entries)) == entries
    assert entries[1] == {
        "image_id": 7,
        "category_id": 8,
        "bbox": [10.0, 10.0, 20.0, 20.0],
        "score": 0.5,
        "segmentation": {"size": [40, 50], "counts": entries[1]["segmentation"]["counts"]},
    }
    assert decode_mask(entries[1]["segmentation"], *SIZE).sum() == 400


@pytest.mark.parametrize("size", [(17, 23), (40, 50), (3, 4), (77, 120)])
def test_resized_masks_equal_resized_bitmaps(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        bitmap = np.zeros(SIZE, np.bool_)
        top, left = rng.integers(0, 35), rng.integers(0, 45)
        part = bitmap[top : top + rng.integers(1, 30), left : left + rng.integers(1, 30)]
        part[:] = rng.random(part.shape) < 0.7
        resized = decode_mask(dict(resize_mask(encode_bitmap(bitmap, SIZE), size)), *size)
        assert (resized == resize_labels(bitmap, size)).all()


def test_resized_instances_are_in_the_frame_of_the_drawing() -> None:
    resized = build_instances().resize((0.5, 0.5), (20, 25))
    assert resized.boxes[1].tolist() == [5, 5, 15, 15]
    assert resized.segmentations[1] == encode_rectangle([5, 5, 15, 15], (20, 25))


def test_drawing_fills_the_masks_above_the_score() -> None:
    canvas = ImageCanvas(np.zeros((*SIZE, 3), np.uint8))
    canvas.set_classes(("a", "b"))
    empty = encode_bitmap(np.zeros(SIZE, np.bool_), SIZE)
    instances = build_instances()
    instances = replace(instances, segmentations=(empty, *instances.segmentations[1:]))
    instances.draw(canvas, ("a", "b"), 0.4)
    drawn = canvas.finish()
    expected = [int(0.45 * value) for value in get_label_color(1)]
    assert drawn[25, 20].tolist() == pytest.approx(expected, abs=1)
    assert drawn[35, 45].tolist() == [0, 0, 0]  # the score is too low


def test_comparison_counts_the_pixels_of_only_one_mask() -> None:
    tolerance = Tolerance(box=1, score=0.1, unmatched=0, pixels=0.01)
    instances = build_instances()
    same, other = OutputDifference(), OutputDifference()
    instances.compare(instances, tolerance, same)
    assert (same.pixels, same.unmatched) == (0.0, 0)
    assert same.is_within(tolerance)
    masks = (encode_rectangle([0, 0, 10, 7], SIZE), *instances.segmentations[1:])
    instances.compare(replace(instances, segmentations=masks), tolerance, other)
    # 10 of 80 + 400 + 1200 pixels.
    assert other.pixels == pytest.approx(10 / 1680)
    assert other.box == 0
    assert not other.is_within(replace(tolerance, pixels=0.005))
