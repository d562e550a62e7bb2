"""Subgroups by keys of image records: values, missing values, and messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.subgroups.subgroups import find_subgroups
from resnet_tasks.errors import DataError


def write_images(folder: Path, *fields: dict[str, Any]) -> CocoFile:
    """Write a file with one image per dictionary of further fields."""
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 4, "width": 4 + i, **more}
        for i, more in enumerate(fields)
    ]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    path = folder / "images.json"
    path.write_text(json.dumps(content))
    return read_coco(path)


def test_values_are_texts_and_missing_ones_are_counted(tmp_path: Path) -> None:
    file = write_images(
        tmp_path,
        *({"v": value} for value in ("night", 3, 3.0, 1.25, True, "", None, " ", float("nan"))),
        {},
    )
    found = find_subgroups([file], "v")
    assert found.values == ("night", "3", "3", "1.25", "true", *["unknown"] * 5)
    assert found.notes == ("5 images have no 'v': subgroup 'unknown'",)
    assert found.count_images() == {"3": 2, "1.25": 1, "night": 1, "true": 1, "unknown": 5}


def test_nested_keys_and_keys_with_dots(tmp_path: Path) -> None:
    nested = {"attributes": {"weather": "rain", "time": {"of": "day"}}, "a.b": "dotted"}
    file = write_images(tmp_path, nested, {"attributes": {"weather": "fog"}, "group": 7})
    assert find_subgroups([file], "attributes.weather").values == ("rain", "fog")
    assert find_subgroups([file], "attributes.time.of").values == ("day", "unknown")
    assert find_subgroups([file], "a.b").values == ("dotted", "unknown")
    assert find_subgroups([file], "group").values == ("unknown", "7")
    assert find_subgroups([file, file], "width").values == ("4", "5", "4", "5")


def test_measured_keys_do_not_collide_with_keys_of_records(tmp_path: Path) -> None:
    file = write_images(tmp_path, {}, {}, {})
    expected = ("small", "medium", "large")
    assert find_subgroups([file], "image:size").values == expected
    assert find_subgroups([file], "size").values == expected
    sized = write_images(tmp_path, {"size": "A4"}, {}, {"size": "A5"})
    with pytest.raises(
        DataError,
        match=r"'size' is ambiguous, because 2 image records have a key of that name; pass "
        r"image:size \(thirds .*\) or record:size",
    ):
        find_subgroups([sized], "size")
    assert find_subgroups([sized], "record:size").values == ("A4", "unknown", "A5")
    assert find_subgroups([sized], "image:size").values == expected


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "scaner",
            r"records: scanner, site\.name, number, height, width, file_name, group; .*'scanner'\?",
        ),
        ("widht", "did you mean 'width'"),
        ("site", r"the key 'site' of image 0 is an object; pass one of its keys: site\.name"),
        ("tags", r"the key 'tags' of image 0 is a list; subgroups need text"),
        ("number", r"the key 'number' has 60 different values in 60 images, more than 50"),
        ("image:colour", r"'image:colour' is unknown; .*; did you mean 'image:color'\?"),
        ("brightness", r"image:brightness reads the images, but 60 of 60 are missing, .*0\.png"),
    ],
)
def test_messages(tmp_path: Path, key: str, message: str) -> None:
    first = {"scanner": "S", "site": {"name": "B"}, "tags": ["x"], "number": 0, "group": "g"}
    second = [{"scanner": "T", "site": {"name": "C"}, "number": i} for i in range(1, 60)]
    file = write_images(tmp_path, first, *second)
    with pytest.raises(DataError, match=message):
        find_subgroups([file], key)


def test_records_without_other_keys_have_their_fields(tmp_path: Path) -> None:
    file = write_images(tmp_path, {}, {})
    with pytest.raises(DataError, match=r"keys of the records: height, width, file_name; measured"):
        find_subgroups([file], "nosuch")
    assert find_subgroups([file], "file_name").values == ("0.png", "1.png")


def test_long_keys_are_short_in_messages(tmp_path: Path) -> None:
    file = write_images(tmp_path, {"k" * 2_000_000: 1, "site": {"s" * 2_000_000: 1}})
    for key in ("nosuch", "site", "k" * 1_999_999):
        with pytest.raises(DataError, match=r"(kkk|sss)\.\.\.") as caught:
            find_subgroups([file], key)
        assert len(str(caught.value)) < 1000


def test_long_values_that_differ_in_the_middle_stay_apart(tmp_path: Path) -> None:
    names = [f"{'a' * 80}{i}{'b' * 80}" for i in range(2)]
    file = write_images(tmp_path, *({"site": name} for name in names))
    assert find_subgroups([file], "site").values == tuple(names)
