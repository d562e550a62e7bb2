"""Hints at results that are read in another way than they were written, with any backend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.evaluation.results_files.evaluate_files import evaluate_results_file

BACKENDS = pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
Entry = dict[str, Any]


def box(number: int) -> list[float]:
    """Box that ends inside an image of 640 x 480 pixels, at another place for every number."""
    return [200 + 20 * (number % 7), 150 + 15 * (number % 5), 120, 90]


def write(
    folder: Path, change: Callable[[Entry], Entry] = dict, *, images: int = 10, detected: int = 10
) -> tuple[Path, Path]:
    """Write one object per image, and perfect results of the first images after a change."""
    truth, results = folder / "gt.json", folder / "dt.json"
    records = [{"id": i, "file_name": f"{i}", "width": 640, "height": 480} for i in range(images)]
    annotations = [
        {"id": i + 1, "image_id": i, "category_id": 5 + i % 3, "bbox": box(i), "iscrowd": 0}
        | {"area": 120 * 90, "segmentation": [[200, 150, 320, 150, 320, 240]]}
        for i in range(images)
    ]
    categories = [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}, {"id": 7, "name": "hen"}]
    content = {"images": records, "annotations": annotations, "categories": categories}
    truth.write_text(json.dumps(content))
    entries = [
        {"image_id": i, "category_id": 5 + i % 3, "bbox": box(i), "score": 0.9}
        for i in range(detected)
    ]
    results.write_text(json.dumps([change(entry) for entry in entries]))
    return truth, results


def to_corners(entry: Entry) -> Entry:
    x, y, width, height = entry["bbox"]
    return entry | {"bbox": [x, y, x + width, y + height]}


def to_centers(entry: Entry) -> Entry:
    x, y, width, height = entry["bbox"]
    return entry | {"bbox": [x + width / 2, y + height / 2, width, height]}


def to_fractions(entry: Entry) -> Entry:
    x, y, width, height = entry["bbox"]
    return entry | {"bbox": [x / 640, y / 480, width / 640, height / 480]}


def shift_category(entry: Entry) -> Entry:
    return entry | {"category_id": 5 + (entry["category_id"] - 4) % 3}


def read_notes(files: tuple[Path, Path], backend: str, task: str = "box") -> tuple[str, ...]:
    return evaluate_results_file(*files, backend=backend, task=task).notes


@BACKENDS
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (to_corners, r"read as corners \[x1, y1, x2, y2\] in pixels, AP50 would be 1.0000 instead"),
        (to_centers, r"read as \[center x, center y, width, height\] in pixels, AP50 would be 1.0"),
        (
            to_fractions,
            (
                r"10 of 10 boxes have no coordinate outside 0..1.*; read as \[x, y, width, "
                r"height\] in fractions of the image size, AP50 would be 1.0000 instead of 0.0000; "
            ),
        ),
        (
            lambda entry: to_fractions(to_corners(entry)),
            r"read as corners \[x1, y1, x2, y2\] in fractions of the image size, AP50 would be 1.0",
        ),
        (
            lambda entry: to_fractions(to_centers(entry)),
            r"read as \[center x, center y, width, height\] in fractions of the image size, AP50 w",
        ),
        (
            shift_category,
            (
                "with classes ignored, AP50 would be 1.0000 instead of 0.0000; detections lie "
                r"mostly on objects of another category: 6 \(dog\) on 5 \(cat\), 5 \(cat\) on 7 "
                r"\(hen\), 7 \(hen\) on 6 \(dog\); a category_id of the results is an id in `cat"
            ),
        ),
        (
            lambda entry: entry | {"bbox": [3 * value for value in entry["bbox"]]},
            "beyond their images; read as pixels of images resized to 300% of the width, 300% of",
        ),
        (
            lambda entry: (
                entry
                | {"bbox": [v * s for v, s in zip(entry["bbox"], (0.5, 0.8) * 2, strict=True)]}
            ),
            "read as pixels of images resized to 50% of the width, 80% of the height, AP50 would b",
        ),
        (
            lambda entry: (
                entry | {"bbox": [500 + entry["image_id"], 5 + entry["image_id"], 600, 3]}
            ),
            r"100% of the boxes extend .*; boxes are read as \[x, y, width, height\]: are these c",
        ),
    ],
)
def test_another_reading_is_named_with_its_ap(
    tmp_path: Path, change: Callable[[Entry], Entry], expected: str, backend: str
) -> None:
    notes = read_notes(write(tmp_path, change), backend)
    assert len(notes) == 1
    assert re.search(expected, notes[0]), notes


@BACKENDS
def test_correct_and_merely_poor_results_get_no_hint(tmp_path: Path, backend: str) -> None:
    assert read_notes(write(tmp_path), backend) == ()
    wrong_place = write(tmp_path, lambda entry: entry | {"bbox": [5, 5, 120, 90]})
    assert read_notes(wrong_place, backend) == ()


@BACKENDS
@pytest.mark.parametrize("task", ["box", "mask"])
def test_results_of_a_part_of_the_images_are_counted(
    tmp_path: Path, backend: str, task: str
) -> None:
    mask = {"segmentation": [[200, 150, 320, 150, 320, 240]]}
    files = write(tmp_path, lambda entry: entry | mask, images=40, detected=6)
    assert read_notes(files, backend, task) == (
        (
            "the results have detections in 6 of the 40 images with objects; the objects of 34 "
            "other images count as missed; on the images with detections alone, AP50 is 1.0000"
        ),
    )
    nearly_all = write(tmp_path, lambda entry: entry | mask, images=40, detected=37)
    assert read_notes(nearly_all, backend, task) == ()


@BACKENDS
def test_shifted_categories_of_masks(tmp_path: Path, backend: str) -> None:
    mask = {"segmentation": [[200, 150, 320, 150, 320, 240]]}
    files = write(tmp_path, lambda entry: shift_category(entry) | mask)
    (note,) = read_notes(files, backend, "mask")
    assert note.startswith("with classes ignored, AP50 would be 1.0000 instead of 0.0000; ")


@BACKENDS
def test_ground_truth_of_crowds_only_is_named(tmp_path: Path, backend: str) -> None:
    truth, results = write(tmp_path)
    content = json.loads(truth.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    truth.write_text(json.dumps(content))
    (note,) = read_notes((truth, results), backend)
    assert note.startswith(f"all 10 objects of {truth} have `iscrowd: 1`, which evaluation ignores")
    truth.write_text(json.dumps(content | {"annotations": []}))
    (note,) = read_notes((truth, results), backend)
    assert note == f"{truth} contains no objects, so no metric is defined"
