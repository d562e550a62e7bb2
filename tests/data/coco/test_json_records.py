"""Records that are decoded on request."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from resnet_tasks.data.coco.json_records import open_content
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.errors import DataError

OBJECT = b'"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}'


def write_with_id(folder: Path, annotation_id: bytes) -> Path:
    """Write a COCO file with an annotation without id before one with the given id."""
    path = folder / "a.json"
    path.write_bytes(
        b'{"info": {}, "categories": [{"id": 1, "name": "a"}], "images": [{"id": 1, "file_name": '
        b'"a.png", "height": 9, "width": 9}], "annotations": [{'
        + OBJECT
        + b', {"id": '
        + annotation_id
        + b", "
        + OBJECT
        + b"]}"
    )
    return path


def test_annotation_ids_are_those_of_the_decoded_records(tmp_path: Path) -> None:
    content = open_content(write_with_id(tmp_path, b"1e400"))
    assert list(content.iter_annotation_ids()) == [None, math.inf]
    content = open_content(write_with_id(tmp_path, b'"7"'))
    assert list(content.iter_annotation_ids()) == [None, "7"]


def test_an_id_beyond_the_range_of_floats_is_replaced(tmp_path: Path) -> None:
    coco = read_coco(write_with_id(tmp_path, b"1e400"))
    assert [annotation.id for annotation in coco.annotations[1]] == [1, 2]


@pytest.mark.parametrize(
    ("annotation_id", "reason"),
    [(b'"\xff"', "can't decode byte 0xff"), (b"9" * 5000, "4,?300 digits")],
)
def test_ids_that_are_not_json_are_reported(
    tmp_path: Path, annotation_id: bytes, reason: str
) -> None:
    path = write_with_id(tmp_path, annotation_id)
    message = rf"a\.json (is not JSON in UTF-8|cannot be read): .*{reason}"
    with pytest.raises(DataError, match=message):
        read_coco(path)
    problem = check_coco(path).problems[0]
    assert problem.kind == "unreadable"
    assert re.search(reason, problem.message)


DEEP = "[" * 101 + "]" * 101


@pytest.mark.parametrize(
    ("text", "replacement"),
    [
        ('"info": {}', f'"info": {DEEP}'),
        ('"name": "a"', f'"name": "a", "x": {DEEP}'),
        ('"height": 9', f'"height": 9, "x": {DEEP}'),
        ('"iscrowd": 0', f'"iscrowd": 0, "segmentation": {DEEP}'),
        ("[1, 2, 3, 4]", DEEP),
    ],
)
def test_nested_values_are_reported(tmp_path: Path, text: str, replacement: str) -> None:
    path = write_with_id(tmp_path, b"7")
    path.write_text(path.read_text().replace(text, replacement))
    with pytest.raises(DataError, match=r"a\.json cannot be read: its values are nested more than"):
        read_coco(path)
    (problem,) = check_coco(path).problems
    assert problem.kind == "unreadable"
    assert "nested more than 100 levels" in problem.message
