from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnet_tasks.report.gallery import (
    LONGEST_SIDE,
    Gallery,
    PredictedBoxes,
    choose_images,
    match_boxes,
    read_predicted_map,
    shrink_label_map,
)
from resnet_tasks.report.run_view import read_run
from resnet_tasks.report.sections import make_page
from resnet_tasks.structures.evaluation import VOID, GroundTruth


def found(*rows: tuple[list[float], int, float]) -> PredictedBoxes:
    boxes = np.asarray([row[0] for row in rows], np.float64).reshape(-1, 4)
    labels = np.asarray([row[1] for row in rows], np.int64)
    return PredictedBoxes(boxes, labels, np.asarray([row[2] for row in rows], np.float64))


def truth(boxes: list[list[float]], labels: list[int], crowd: list[bool]) -> GroundTruth:
    return GroundTruth(
        image_id=1,
        size=(100, 100),
        boxes_xywh=np.asarray(boxes, np.float64).reshape(-1, 4),
        labels=np.asarray(labels, np.int64),
        crowd=np.asarray(crowd, np.bool_),
    )


def gallery(made: Any) -> Gallery:
    run = read_run(made.folder)
    part = make_page(run, run.find_evaluation(), None).gallery
    assert not part.problem
    assert isinstance(part.value, Gallery)
    return part.value


def test_a_truth_is_found_once_by_the_best_box_of_its_class() -> None:
    boxes = found(
        ([0, 0, 10, 10], 0, 0.9),  # finds the first
        ([1, 0, 10, 10], 0, 0.8),  # overlaps it too, but it is taken
        ([20, 0, 10, 10], 1, 0.7),  # right place, wrong class
        ([20, 0, 10, 5], 0, 0.6),  # IoU exactly 0.5
        ([20, 0, 10, 4.9], 0, 0.5),  # taken, and too small
        ([62, 62, 5, 5], 0, 0.4),  # inside a crowd
        ([62, 62, 5, 5], 1, 0.3),  # inside a crowd of another class
    )
    present = truth(
        [[0, 0, 10, 10], [20, 0, 10, 10], [60, 60, 30, 30]], [0, 0, 0], [False, False, True]
    )
    assert match_boxes(boxes, present).tolist() == [0, -1, -1, 1, -1, -2, -1]
    assert match_boxes(boxes, truth([], [], [])).tolist() == [-1] * 7
    assert match_boxes(found(), present).tolist() == []


def test_worst_surprising_and_best_are_chosen_and_each_image_once() -> None:
    rows = [{"image_id": i, "quality": i / 40, "surprise": (i * 7 % 40) / 40} for i in range(40)]
    choices, notes = choose_images({"a": {"images": rows}}, list(range(40)))
    assert len(choices) == 12
    assert notes == []
    assert [each.index for each in choices[:4]] == [0, 1, 2, 3]
    assert choices[0].reasons == ("a: worst (quality 0.00)",)
    reasons = [reason for each in choices for reason in each.reasons]
    assert sum("best" in each for each in reasons) == 4
    assert sum("surprising" in each for each in reasons) == 4
    few, _ = choose_images({"a": {"images": rows[:2]}}, [0, 1])
    assert [len(each.reasons) for each in few] == [2, 3]  # the first one surprises nobody
    alike, _ = choose_images(
        {"a": {"images": [{**each, "quality": 0.0} for each in rows]}}, range(40)
    )
    reasons = [reason for each in alike for reason in each.reasons]
    assert sum("worst" in each for each in reasons) == 4
    assert not any("best" in each for each in reasons), "no image is worst and best at once"


def test_without_judged_images_they_are_spread_and_it_is_said() -> None:
    unknown = {"a": {"images": [{"image_id": "gone", "quality": 1.0}]}}
    choices, notes = choose_images(unknown, list(range(100)), limit=3)
    assert [each.index for each in choices] == [0, 49, 99]
    assert "did not judge single images" in notes[0]
    assert choose_images({}, []) == ([], [])


def test_maps_become_labels_and_foreign_values_are_void(made: Any, tmp_path: Path) -> None:
    head = read_run(made.folder).labels.heads["scene"]
    values = np.asarray([[0, 10, 40], [20, 30, 77]], np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    labels = read_predicted_map(tmp_path / "map.png", head, (2, 3))
    assert labels is not None
    assert labels.tolist() == [[0, 1, 4], [2, 3, VOID]]
    assert read_predicted_map(tmp_path / "map.png", head, (3, 2)) is None
    assert read_predicted_map(tmp_path / "none.png", head, (2, 3)) is None


def test_large_maps_are_reduced_without_new_values() -> None:
    values = np.zeros((1000, 2000), np.int64)
    values[:, 1000:] = 7
    small = shrink_label_map(values)
    assert small.shape == (LONGEST_SIDE // 2, LONGEST_SIDE)
    assert set(np.unique(small)) == {0, 7}
    assert (small == 7).mean() == 0.5


def test_right_wrong_and_missed_boxes_are_told_apart(made: Any) -> None:
    first = next(each for each in gallery(made).images if each.image_id == 1)
    assert re.findall(r'class="(boxes truth[^"]*)"', first.truth) == [
        "boxes truth",
        "boxes truth missed",  # its box scores 0.3, below the slider's 0.5
    ]
    assert re.findall(r'class="(boxes found[^"]*)"', first.prediction) == [
        "boxes found",
        "boxes found wrong",
        "boxes found below",
    ]
    assert 'data-score="0.3000"' in first.truth
    assert first.truth.count('class="maps"') == 1
    assert first.prediction.count('class="differences"') == 1
    assert first.prediction.rindex("data:image/png") < first.prediction.index("boxes found")


def test_images_that_are_gone_are_counted(made: Any, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for each in made.data.glob("*.json"):
        (moved / each.name).write_text(each.read_text())
    text = (made.folder / "recipe.yaml").read_text().replace(str(made.data), str(moved))
    (made.folder / "recipe.yaml").write_text(text)
    part = make_page(read_run(made.folder), read_run(made.folder).find_evaluation(), None).gallery
    assert part.value.images == ()
    assert "3 chosen image(s) are not there" in part.value.notes[0]


def test_classes_of_whole_images_stand_beside_them(made: Any) -> None:
    """The head's results say what it is: here the boxes become classes with scores."""
    rows = [{"image_id": 1, "category_ids": [20, 10, 40, 30], "scores": [0.7, 0.2, 0.06, 0.04]}]
    (made.evaluation / "predictions" / "objects.json").write_text(json.dumps(rows))
    made_gallery = gallery(made)
    first = next(each for each in made_gallery.images if each.image_id == 1)
    names = made.names
    shown = f"{names[1]} 0.70, {names[0]} 0.20, {names[3]} 0.06"
    assert first.labels == (("objects", "not annotated", shown),)
    assert not made_gallery.has_boxes
    other = next(each for each in made_gallery.images if each.image_id == 2)
    assert other.labels == (("objects", "not annotated", "none"),)
