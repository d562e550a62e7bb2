"""Ground truth of results files: the fast way and the careful way agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.data.coco import categories
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.truth import read_truth
from resnet_tasks.errors import DataError
from tests.support.usual_truth import TRUTH

MASK = {"size": [10, 20], "counts": [0, 4, 196]}


def write(folder: Path, content: Any, name: str = "file.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_truth_by_hand(tmp_path: Path) -> None:
    truth = read_truth(write(tmp_path, TRUTH))
    annotations = truth.annotations
    assert truth.images.list_ids() == (7, 3)
    assert truth.images.sizes.tolist() == [[10, 20], [10, 20]]
    assert truth.categories.ids == (5, 90)
    assert [each.id for image in annotations.values() for each in image] == [2, 1]  # by image
    assert annotations.image_positions.tolist() == [0, 1]
    assert annotations.labels.tolist() == [0, 1]
    # COCO counts empty boxes too.
    assert annotations.boxes.tolist() == [[1, 2, 3, 0], [1, 2, 3, 4]]
    assert (annotations.areas.tolist(), annotations.crowd.tolist()) == ([0, 9], [False, True])
    assert truth.images.list_groups() == {7: "p1"}
    assert truth.problems == ()


def test_almost_coco_gives_the_same_columns(tmp_path: Path) -> None:
    almost = json.loads(json.dumps(TRUTH))
    del almost["info"]
    for each in almost["annotations"]:
        del each["id"]
    del almost["annotations"][1]["iscrowd"], almost["annotations"][1]["area"]
    clean = read_truth(write(tmp_path, TRUTH))
    repaired = read_truth(write(tmp_path, almost, "almost.json"))
    kinds = {each.kind for each in repaired.problems}
    assert {"missing_iscrowd", "missing_area", "missing_id"} <= kinds
    assert set(repaired.annotations.columns) == set(clean.annotations.columns)
    for name in set(clean.annotations.columns) - {"annotation.id"}:
        expected = clean.annotations.columns[name].tolist()
        assert str(repaired.annotations.columns[name].tolist()) == str(expected), name


def test_whole_numbers_as_floats_are_ids(tmp_path: Path) -> None:
    """JSON does not distinguish 7.0 and 7; results files are read in the same way."""
    floats = json.loads(json.dumps(TRUTH))
    for section, keys in (
        ("images", ["id"]),
        ("categories", ["id"]),
        ("annotations", ["id", "image_id", "category_id"]),
    ):
        for record in floats[section]:
            record |= {key: float(record[key]) for key in keys}
    clean = read_truth(write(tmp_path, TRUTH))
    truth = read_truth(write(tmp_path, floats, "floats.json"))
    assert truth.problems == ()
    assert repr(truth.categories.ids) == repr(clean.categories.ids)
    for name, column in clean.annotations.columns.items():
        assert str(truth.annotations.columns[name].tolist()) == str(column.tolist()), name
    assert repr(truth.images.list_ids()) == repr(clean.images.list_ids())
    floats["annotations"][0]["image_id"] = 7.5
    with pytest.raises(DataError, match=r"\(image_id 7.5\); image ids look like 7, 3"):
        read_truth(write(tmp_path, floats, "floats.json"))


def test_new_ids_do_not_repeat_ids_like_2_0(tmp_path: Path) -> None:
    content = json.loads(json.dumps(TRUTH))
    del content["annotations"][0]["id"]
    content["annotations"][1]["id"] = 1.0
    annotations = read_truth(write(tmp_path, content)).annotations
    assert sorted(each.id for image in annotations.values() for each in image) == [1, 2]


def test_segmentations_of_clean_files_are_those_of_the_file(tmp_path: Path) -> None:
    content = json.loads(json.dumps(TRUTH))
    first, second = content["annotations"]
    first["segmentation"], second["segmentation"] = [[1, 2, 3, 4.5, 5, 6]], MASK
    content["annotations"].append({**second, "id": 3, "segmentation": None})
    path = write(tmp_path, content)
    annotations = read_truth(path, masks=True).annotations
    found = [annotations.get_segmentation(row) for row in range(3)]
    assert found == [MASK, None, [[1, 2, 3, 4.5, 5, 6]]]
    assert [read_truth(path).annotations.get_segmentation(row) for row in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [(b'{"counts": "\xff"}', "can't decode byte 0xff"), (b"[[" + b"9" * 5000 + b"]]", "4,300 dig")],
)
def test_segmentations_that_are_not_json_are_reported(
    tmp_path: Path, segmentation: bytes, reason: str
) -> None:
    content = json.loads(json.dumps(TRUTH))
    content["annotations"][0]["segmentation"] = "here"
    path = write(tmp_path, content)
    path.write_bytes(path.read_bytes().replace(b'"here"', segmentation))
    assert len(read_truth(path).annotations.areas) == 2  # boxes need no segmentation
    with pytest.raises(DataError, match=reason):
        read_truth(path, masks=True)


def test_image_level_labels_are_not_objects(tmp_path: Path) -> None:
    content = json.loads(json.dumps(TRUTH))
    del content["annotations"][0]["bbox"]
    truth = read_truth(write(tmp_path, content))
    assert truth.annotations.boxes.tolist() == [[1, 2, 3, 0]]
    assert [problem.kind for problem in truth.problems] == ["no_box"]


def test_too_many_categories_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(categories, "MAX_CATEGORIES", 2)
    content = {**TRUTH, "categories": [{"id": i, "name": f"c{i}"} for i in (5, 90)]}
    assert read_truth(write(tmp_path, content)).categories.ids == (5, 90)
    content["categories"].append({"id": 91, "name": "c91"})
    for name, text in (
        ("a.json", json.dumps(content)),
        ("b.json", json.dumps(content)[:-1] + ', "x": NaN}'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=rf"{name}: the dataset has 3 categories, more .* of 2"):
            read_truth(tmp_path / name)
        with pytest.raises(DataError, match=rf"{name}: the dataset has 3 categories, more .* of 2"):
            read_coco(tmp_path / name)


@pytest.mark.slow
def test_two_million_categories_are_refused_with_little_memory(tmp_path: Path) -> None:
    """As Python objects they would take more than a gigabyte."""
    path = tmp_path / "many.json"
    entries = ",".join(f'{{"id": {i}, "name": "{i}"}}' for i in range(2_000_000))
    path.write_text(f'{{"images": [], "annotations": [], "categories": [{entries}]}}')
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from resnet_tasks.data.coco.read import read_coco\n"
        "try:\n"
        "    read_coco(Path(sys.argv[1]))\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(re.search('VmHWM:\\\\s+(\\\\d+)', status)[1])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    message, kibibytes = result.stdout.splitlines()
    assert "the dataset has 2,000,000 categories, more than the limit of 250,000" in message
    assert int(kibibytes) < 400_000
