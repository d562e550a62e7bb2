"""Results files: the fast way and the careful way agree, and bad entries are named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.data.coco import json_records, results
from resnet_tasks.data.coco.results import read_results
from resnet_tasks.data.coco.truth import read_truth
from resnet_tasks.errors import DataError
from tests.support.usual_truth import TRUTH

ENTRY = {"image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "score": 0.5}
MASK = {"size": [10, 20], "counts": [0, 4, 196]}
COMPRESSED = {"size": [10, 20], "counts": "04T6"}


def write(folder: Path, content: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_portions_are_cut_between_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    entries = [
        {**ENTRY, "score": i / 50, "note": "a } , { in a text" if i == 30 else "", "deep": {"a": 1}}
        for i in range(50)
    ]
    path = write(tmp_path, entries, "results.json")
    whole = read_results(path, truth)
    for size in (1, 90, 333):
        monkeypatch.setattr(json_records, "CHUNK_BYTES", size)
        portions = read_results(path, truth)
        assert portions.scores.tolist() == whole.scores.tolist() == [i / 50 for i in range(50)]
        assert portions.boxes is not None
        assert portions.boxes.tolist() == [[1, 2, 3, 4]] * 50


@pytest.mark.parametrize("indent", [None, 2])
def test_clean_results_take_the_fast_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    path = tmp_path / "results.json"
    path.write_text(json.dumps([ENTRY] * 3, indent=indent))
    monkeypatch.setattr(results, "_read_checked", lambda *_: pytest.fail("slow"))
    assert read_results(path, truth).labels.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"image_id": 4},
            "entry 1 has image_id 4; .* has no such image; image ids there look like 7, 3",
        ),
        ({"image_id": "7"}, "entry 1 has image_id '7'; ids are numbers there, .*: write 7, not"),
        ({"image_id": "--7"}, "entry 1 has image_id '--7'; .* has no such image"),
        ({"image_id": "7" * 5000}, "entry 1 has image_id '777.* has no such image"),
        ({"image_id": None}, "entry 1 has image_id None"),
        ({"image_id": [7]}, r"entry 1 has image_id \[7\]"),
        ({"category_id": 1}, r"entry 1 \(image 7\) has category_id 1; known ids: 5, 90"),
        ({"bbox": [1, 2, 3]}, r"has bbox \[1, 2, 3\]; a bbox must be"),
        ({"bbox": [1, 2, 3, math.nan]}, "finite numbers in pixels"),
        ({"bbox": [9, 9, -3, 4]}, r"has bbox \[9, 9, -3, 4\]; width and height must be 0 or more"),
        ({"bbox": None}, "has bbox None"),
        ({"score": None}, "has score None; a score must be a finite number"),
        ({"score": math.inf}, "has score inf"),
        ({"score": math.nan}, "has score nan"),
        ({"score": "0.5"}, "has score '0.5'"),
        ({"score": True}, "has score True"),
        ({"score": 10**400}, "has score 1000.*; a score must be a finite number"),
        ({"bbox": [1, 2, 3, 10**400]}, "finite numbers in pixels"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    path = write(tmp_path, [ENTRY, {**ENTRY, **change}], "results.json")
    with pytest.raises(DataError, match=said):
        read_results(path, truth)


def test_ids_as_text_are_one_fault_however_many_images(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    entries = [{**ENTRY, "image_id": each} for each in ("3", "7")]
    with pytest.raises(DataError, match=r"'3', .* '7'; ids are numbers .* write 7, not '7'$"):
        read_results(write(tmp_path, entries, "results.json"), truth)


def test_negative_ids_as_numbers_are_named(tmp_path: Path) -> None:
    images = [{"id": "-5", "file_name": "a.png", "height": 10, "width": 20}]
    truth = read_truth(write(tmp_path, {**TRUTH, "images": images, "annotations": []}))
    path = write(tmp_path, [{**ENTRY, "image_id": -5}], "results.json")
    with pytest.raises(DataError, match=r"ids are text there, not numbers: write '-5', not -5$"):
        read_results(path, truth)


def test_first_five_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    bad = [{**ENTRY, "image_id": 100 + i} for i in range(8)] + [{**ENTRY, "score": "high"}]
    with pytest.raises(DataError) as error:
        read_results(write(tmp_path, bad, "results.json"), truth)
    first, second = str(error.value).splitlines()
    assert "entry 4 has image_id 104, ... (8 of 9 entries)" in first
    assert "entry 5" not in first
    assert "entry 8 (image 7) has score 'high'" in second


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"annotations": [ENTRY]}, "got an object .* write the list under `annotations` alone"),
        ({}, "a COCO results file is a list"),
        (3, "a COCO results file is a list .* got 3"),
        ([ENTRY, 5], "entry 1 is 5; every entry must be an object"),
    ],
)
def test_other_files_say_what_is_wanted(tmp_path: Path, content: Any, said: str) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    with pytest.raises(DataError, match=said):
        read_results(write(tmp_path, content, "results.json"), truth)


def test_no_results_are_results(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    columns = read_results(write(tmp_path, [], "results.json"), truth)
    assert columns.boxes is not None
    assert columns.boxes.shape == (0, 4)


def test_clean_masks_are_read_in_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = read_truth(write(tmp_path, TRUTH), masks=True)
    entry = {"image_id": 7, "category_id": 90, "score": 0.5, "segmentation": COMPRESSED}
    boxed = {**entry, "bbox": [1, 2, 3, 5]}
    files = {
        name: write(tmp_path, entries, f"{name}.json")
        for name, entries in (("boxed", [boxed] * 300), ("plain", [entry] * 300), ("none", []))
    }
    careful = {name: results._read_checked(file, truth, "mask") for name, file in files.items()}
    monkeypatch.setattr(results, "_read_checked", lambda *_: pytest.fail("entry by entry"))
    for name, file in files.items():
        columns = read_results(file, truth, kind="mask")
        assert list(columns.segmentations) == list(careful[name].segmentations)
        assert (columns.boxes is None) == (name == "plain")
        assert columns.areas.tolist() == careful[name].areas.tolist()
    assert careful["boxed"].areas.tolist() == [15] * 300
    assert careful["plain"].areas.tolist() == [4] * 300


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [10, 20], "counts": "04T5"},  # one pixel is missing
        {"size": [20, 10], "counts": "04T6"},
        {"size": [10, 20], "counts": "04T6\x7f"},
        {"size": [10, 20], "counts": "04T6\u00e9"},
        {"size": [10, 20], "counts": ""},
        {"size": [10], "counts": "04T6"},
        {"size": [10, 20], "counts": None},
        {"counts": "04T6"},
    ],
)
def test_one_bad_mask_among_clean_ones_is_named(tmp_path: Path, mask: dict[str, Any]) -> None:
    truth = read_truth(write(tmp_path, TRUTH), masks=True)
    entry = {"image_id": 7, "category_id": 90, "score": 0.5, "segmentation": COMPRESSED}
    entries = [entry] * 3 + [{**entry, "segmentation": mask}] + [entry] * 3
    with pytest.raises(DataError, match=r"entry 3 \(image 7\) of height 10 and width 20 has"):
        read_results(write(tmp_path, entries, "r.json"), truth, kind="mask")


def test_boxes_of_many_masks(tmp_path: Path) -> None:
    """pycocotools cannot measure more than 255 masks at once with NumPy 2."""
    truth = read_truth(write(tmp_path, TRUTH))
    entry = {"image_id": 7, "category_id": 90, "score": 0.5, "segmentation": COMPRESSED}
    columns = read_results(write(tmp_path, [entry] * 300, "r.json"), truth)
    assert columns.boxes is not None
    assert columns.boxes.tolist() == [[0, 0, 1, 4]] * 300
    assert columns.areas.tolist() == [4] * 300


def test_masks(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH), masks=True)
    entry = {"image_id": 7, "category_id": 90, "score": 0.5, "segmentation": MASK}
    columns = read_results(write(tmp_path, [entry], "r.json"), truth, kind="mask")
    packed = {**COMPRESSED, "counts": b"04T6"}
    assert (columns.boxes, columns.segmentations) == (None, [packed])
    boxed = {**entry, "bbox": [1, 2, 3, 4]}
    columns = read_results(write(tmp_path, [boxed], "r.json"), truth, kind="mask")
    assert columns.boxes is not None
    with pytest.raises(DataError, match="entry 1 has no bbox, but others do"):
        read_results(write(tmp_path, [boxed, entry], "r.json"), truth, kind="mask")
    for bad in ({"size": [3, 3], "counts": [9]}, None, [[1, 2]], "x"):
        path = write(tmp_path, [{**entry, "segmentation": bad}], "r.json")
        with pytest.raises(DataError, match=r"entry 0 \(image 7\) of height 10 and width 20 has"):
            read_results(path, truth, kind="mask")
