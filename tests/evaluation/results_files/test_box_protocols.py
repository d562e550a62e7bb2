"""FROC and KITTI's AP from files: hand-computed values, options and notes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.errors import DataError, RecipeError
from resnet_tasks.evaluation.results_files.evaluate_files import (
    evaluate_results,
    evaluate_results_file,
)

Entry = dict[str, Any]


def write(
    folder: Path, images: int, categories: list[str], objects: list[Entry], results: list[Entry]
) -> tuple[Path, Path]:
    """Write objects and results, whose `category` is a name, as COCO files."""
    ids = {name: 3 * i + 4 for i, name in enumerate(categories)}

    def with_id(entry: Entry) -> Entry:
        return {**entry, "category_id": ids[entry["category"]]}

    truth, file = folder / "gt.json", folder / "dt.json"
    content = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 400, "width": 900, "group": f"p{i // 2}"}
            for i in range(images)
        ],
        "annotations": [
            with_id(entry) | {"id": i + 1, "iscrowd": 0, "area": 100}
            for i, entry in enumerate(objects)
        ],
        "categories": [{"id": ids[name], "name": name} for name in categories],
    }
    truth.write_text(json.dumps(content))
    file.write_text(json.dumps([with_id(entry) for entry in results]))
    return truth, file


def lesions(folder: Path) -> tuple[Path, Path]:
    """Four images, lesions in the first two; the detection in image 1 is small, but inside."""
    boxes = [[10, 10, 40, 40], [10, 10, 40, 40]]
    found = [(0, boxes[0], 0.9), (2, boxes[0], 0.8), (1, [20, 20, 20, 20], 0.7)]
    return write(
        folder,
        4,
        ["lesion"],
        [{"image_id": i, "category": "lesion", "bbox": box} for i, box in enumerate(boxes)],
        [
            {"image_id": i, "category": "lesion", "bbox": box, "score": score}
            for i, box, score in [*found, (3, boxes[0], 0.6)]
        ],
    )


def test_froc_by_hand(tmp_path: Path) -> None:
    """By IoU, one of two lesions is found before any false positive, the other one never."""
    files = lesions(tmp_path)
    metrics = evaluate_results(*files, task="froc")
    assert metrics["CPM"].value == 0.5
    assert metrics["patient_CPM"].value == 1.0  # images 0 and 1 are of one patient
    # The center hits both: 0 false positives at 0.9, 1 of 4 images at 0.8 and 0.7.
    metrics = evaluate_results(*files, task="froc", options={"hit": "center"})
    assert metrics["sensitivity_at_0.125"].value == 0.5
    assert metrics["sensitivity_at_0.25"].value == 1.0
    assert metrics["CPM"].value == pytest.approx(6.5 / 7)
    assert metrics["image_AUROC"].value == 0.75  # 0.9 and 0.7 against 0.8 and 0.6
    evaluation = evaluate_results_file(*files, task="froc", options={"iou": 0.2})
    assert evaluation.metrics["CPM"].value == pytest.approx(6.5 / 7)
    assert "IoU >= 0.2" in evaluation.protocol
    assert evaluation.groups == {0: "p0", 1: "p0", 2: "p1", 3: "p1"}


def test_kitti_by_hand_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Where the van comes first, it takes the only detection: half of 80 cars are found."""
    car, van = [102, 100, 100, 60], [100, 100, 100, 60]
    objects = []
    for i in range(80):
        pair = [("Van", van), ("Car", car)] if i < 40 else [("Car", car), ("Van", van)]
        objects += [
            {"image_id": i, "category": name, "bbox": box, "occluded": 0, "truncated": 0.0}
            for name, box in pair
        ]
    found = [{"image_id": i, "category": "Car", "bbox": car, "score": 0.8} for i in range(80)]
    files = write(tmp_path, 80, ["Van", "Car"], objects, found)
    evaluation = evaluate_results_file(*files, task="kitti", options={"heights": [50]})
    values = {name: metric.value for name, metric in evaluation.metrics.items()}
    names = ("KITTI_AP_easy", "KITTI_AP_moderate", "KITTI_AP_hard", "KITTI_AP_height_50_up")
    assert values == dict.fromkeys(names, 0.5)
    assert evaluation.metrics["KITTI_AP_easy"].per_class == {"Car": 0.5}
    assert evaluation.notes == ()


def test_kitti_reads_visibility_and_notes_that_it_is_missing(tmp_path: Path) -> None:
    box = [100, 100, 100, 60]
    found = [{"image_id": 0, "category": "Car", "bbox": box, "score": 0.8}]
    hidden = {"image_id": 0, "category": "Car", "bbox": box, "occluded": 1, "truncated": 0.0}
    files = write(tmp_path, 1, ["Car"], [hidden], found)
    metrics = evaluate_results(*files, task="kitti")
    assert metrics["KITTI_AP_easy"].value is None  # no object counts
    assert metrics["KITTI_AP_moderate"].value == 0.0  # (n - 1) / 40 of one object
    plain = {"image_id": 0, "category": "Car", "bbox": box}
    notes = evaluate_results_file(*write(tmp_path, 1, ["Car"], [plain], found), task="kitti").notes
    assert any("1 object has neither `occluded` nor `truncated` (of 1)" in note for note in notes)


def test_few_images_with_results_are_noted(tmp_path: Path) -> None:
    files = lesions(tmp_path)
    entries = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(entries[:1]))
    assert evaluate_results_file(*files, task="froc").notes[-1] == (
        "the results have detections in 1 of the 2 images with objects; the objects of 1 other "
        "image count as missed; on the images with detections alone, CPM is 1.0000"
    )


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("froc", {"hits": "center"}, "options of task 'froc': hits is not an option; did you mean"),
        ("froc", {"iou": 2}, "options of task 'froc': iou: got 2; allowed is"),
        ("kitti", {"heights": [50, 20]}, "options of task 'kitti': .*edges must increase"),
        ("kitti", {"iou": {"tram": 0.5}}, "iou names 'tram', but the classes are lesion"),
        ("box", {"hit": "center"}, "task 'box' has no options, got hit; tasks with options: surf"),
    ],
)
def test_invalid_options_are_named(
    tmp_path: Path, task: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises((DataError, RecipeError), match=expected):
        evaluate_results(*lesions(tmp_path), task=task, options=options)


def test_invalid_files_are_refused(tmp_path: Path) -> None:
    truth, results = lesions(tmp_path)
    results.write_text(json.dumps([{"image_id": 9, "category_id": 4, "bbox": [1] * 4}]))
    with pytest.raises(DataError, match="entry 0 has image_id 9"):
        evaluate_results(truth, results, task="froc")
    content = json.loads(truth.read_text())
    truth.write_text(json.dumps({**content, "info": {"annotated": ["image"]}}))
    with pytest.raises(DataError, match=r"annotates .*image.*, not boxes"):
        evaluate_results(truth, results, task="kitti")
