"""What the doctor says about several files that are splits of one data set."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from resnet_tasks.cli import app
from resnet_tasks.data.doctor.check import CheckOptions
from resnet_tasks.data.doctor.split_checks import check_splits, find_sibling_splits
from resnet_tasks.errors import DataError
from tests.support.doctored_files import GOOD, noise, write
from tests.support.many_classes import count_lines, write_dataset


def split(folder: Path, name: str, groups: tuple[str | None, str | None], **top: Any) -> Path:
    """The good file with images of its own, under `name`."""
    made = copy.deepcopy(GOOD)
    for record, group in zip(made["images"], groups, strict=True):
        record["file_name"] = f"{name}/{record['file_name']}"
        if group:
            record["group"] = group
    return write(folder / f"{name}.json", {**made, **top})


def kinds(paths: list[Path], look: CheckOptions | None = None) -> list[list[tuple[str, Any, str]]]:
    return [
        [(each.kind, each.image_id, each.detail) for each in check.findings]
        for check in check_splits(paths, look)
    ]


def test_clean_splits_have_no_findings(tmp_path: Path) -> None:
    paths = [split(tmp_path, name, (name, None)) for name in ("train", "val", "test")]
    look = CheckOptions(read_images=True, hash_images=True)
    assert kinds(paths, look) == [[], [], []]
    assert find_sibling_splits(paths[1]) == [paths[1], paths[0], paths[2]]


def test_groups_and_images_in_two_splits(tmp_path: Path) -> None:
    train = split(tmp_path, "train", ("p1", "p2"))
    val = split(tmp_path, "val", ("p2", "p2"))
    test = split(tmp_path, "test", ("p1", "p3"))
    content = json.loads(val.read_text())
    # Another way to write the same place.
    content["images"][1]["file_name"] = "../set/train/a.png"
    content["info"]["images_root"] = "val/.."
    (tmp_path / "set").symlink_to(tmp_path)
    content["images"][1]["file_name"] = "train/./a.png"
    val.write_text(json.dumps(content))
    assert kinds([train, val, test]) == [
        [],
        [
            ("shared_group", 1, "group 'p2': 2 images here, 1 in train.json"),
            ("shared_image", 2, "train/./a.png, image 1 of train.json"),
        ],
        [("shared_group", 1, "group 'p1': 1 image here, 1 in train.json")],
    ]
    train_check, val_check, _ = check_splits([train, val, test])
    assert train_check.is_usable
    assert not val_check.is_usable
    assert "split by group" in val_check.problems[0].message


def test_classes_without_objects_in_one_split(tmp_path: Path) -> None:
    train = split(tmp_path, "train", (None, None))
    val = split(tmp_path, "val", (None, None), annotations=GOOD["annotations"][:1])
    train_found, val_found = kinds([train, val])
    assert train_found == []
    assert ("absent_class", None, "7 'mitosis', 1 in train.json") in val_found
    (check,) = (each for each in check_splits([train, val]) if each.path == val)
    assert check.problems[0].severity == "warning"


def test_splits_that_number_classes_differently(tmp_path: Path) -> None:
    train = split(tmp_path, "train", (None, None))
    swapped = [{"id": 7, "name": "cell"}, {"id": 3, "name": "mitosis"}]
    val = split(tmp_path, "val", (None, None), categories=swapped)
    (kind, _, detail), *_ = kinds([train, val])[1]
    assert kind == "categories_differ"
    assert "'cell'" in detail


def test_images_that_look_alike(tmp_path: Path) -> None:
    train, val = (split(tmp_path, name, (None, None)) for name in ("train", "val"))
    again = Image.fromarray(noise("train/b.png", (40, 60)))
    again.resize((120, 80)).save(tmp_path / "val" / "a.png")
    content = json.loads(val.read_text())
    content["images"][0].update(height=80, width=120)
    val.write_text(json.dumps(content))
    look = CheckOptions(read_images=True, hash_images=True)
    ((kind, image_id, detail),) = kinds([train, val], look)[1]
    assert (kind, image_id) == ("near_duplicate", 1)
    assert detail.startswith("val/a.png like train/b.png, image 2 of train.json, ")
    assert kinds([train, val], CheckOptions(read_images=True)) == [[], []]


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    train = split(tmp_path, "train", (None, None))
    with pytest.raises(DataError, match=r"train\.json is passed more than once"):
        check_splits([train, tmp_path / "." / "train.json"])


def test_the_command_line(tmp_path: Path) -> None:
    def run(*words: object) -> Any:
        return CliRunner().invoke(app, ["data", "check", *map(str, words)])

    train, val = (split(tmp_path, name, ("p1", name)) for name in ("train", "val"))
    assert run(train).exit_code == 0
    leaking = run(train, "--with-splits", "--read-images", "--json", tmp_path / "found.json")
    assert leaking.exit_code == 2
    assert "error: shared_group: " in leaking.stdout
    assert "group 'p1': 1 image here, 1 in train.json" in leaking.stdout
    report = json.loads((tmp_path / "found.json").read_text())
    assert [each["is_usable"] for each in report["files"]] == [True, False]
    (found,) = report["files"][1]["findings"]
    assert (found["severity"], found["kind"], found["image_id"]) == ("error", "shared_group", 1)
    assert run(train, val).exit_code == 2
    assert run(train, val, "--with-splits").exit_code == 2

    content = json.loads(train.read_text())
    del content["annotations"][0]["area"]
    train.write_text(json.dumps(content))
    assert run(train).exit_code == 0
    strict = run(train, "--strict")
    assert strict.exit_code == 1
    assert "repaired" in strict.stdout
    fixed = run(train, "--strict", "--fix", tmp_path / "fixed.json")
    assert fixed.exit_code == 0, fixed.output
    assert "changed: missing_area: 1" in fixed.stdout
    assert run(train, "--fix", tmp_path / "fixed.json").exit_code == 2
    assert run(train, val, "--fix", tmp_path / "other.json").exit_code == 2
    assert run(train, "--drop", "box_apart").exit_code == 2


def test_errors_are_the_last_lines(tmp_path: Path) -> None:
    train, val = (split(tmp_path, name, ("p1", name)) for name in ("train", "val"))
    content = json.loads(train.read_text())
    del content["annotations"][0]["area"]
    content["annotations"][1]["category_id"] = 99
    content["categories"].append({"id": 70, "name": "unused"})
    train.write_text(json.dumps(content))
    report = tmp_path / "found.json"
    words = ["data", "check", str(train), str(val), "--json", str(report)]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 2
    lines = made.stdout.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert [line.split(": ")[:2] for line in lines[first:]] == [
        ["error", "unknown_category"],
        ["error", "shared_group"],
    ]
    assert [line.split(": ")[1] for line in lines[:first] if line.startswith("note: ")]
    rows = [line.split("│")[1].strip() for line in lines if "│" in line]
    assert rows == ["note", "repaired", "warning", "error", "error"]

    # A report that cannot be written does not hide the errors.
    (tmp_path / "folder").mkdir()
    made = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "folder")])
    assert "error: shared_group: " in made.stdout
    assert "folder" in made.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [80, 1200])
def test_many_classes_take_few_lines(tmp_path: Path, number: int) -> None:
    write_dataset(tmp_path, number)
    made = CliRunner().invoke(app, ["data", "check", str(tmp_path / "train.json")])
    assert made.exit_code == 0
    assert count_lines(made.stdout) < 15
    assert f"{number} categories (traffic light [red], <b>bold</b> & co, " in made.stdout
    assert f"and {number - 5} more)" in made.stdout
    assert "(--json FILE lists all)" in made.stdout


def test_splits_of_different_bit_depths(tmp_path: Path) -> None:
    paths = [split(tmp_path, name, (None, None)) for name in ("train", "val", "test")]
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((40, 60), 3200, np.uint16)).save(tmp_path / "val" / name)
    train, val, test = (
        [detail for kind, _, detail in found if kind == "mixed_depths"] for found in kinds(paths)
    )
    assert train == []
    assert val == ["2 images of 8 bits, 2 images of 16 bits, over the splits together"]
    assert test == []  # reported once
