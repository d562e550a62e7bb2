"""A resumed run notices that its data has changed, and continues with it only if asked to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from data_tools.converters.synthetic import make_cells
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.errors import RunError
from resnet_tasks.training.data_changes import DataRecord
from tests.support.consoles import heard, quiet


def read_splits(folder: Path) -> dict[str, list[CocoFile]]:
    return {split: [read_coco(folder / f"{split}.json")] for split in ("train", "val")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_cells(tmp_path / "cells", train=3, val=1, seed=5, size=(96, 96))
    return tmp_path / "cells"


@pytest.fixture
def run(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    DataRecord(folder, read_splits(data), data, quiet()).write()
    return folder


def check(run: Path, data: Path, *, accept: bool = False, write: bool = True) -> str:
    console: Console = quiet()
    record = DataRecord(run, read_splits(data), data, console)
    record.require_same(accept_changes=accept)
    if write:
        record.write()
    return heard(console)


def change_image(data: Path) -> str:
    path = sorted((data / "images/train").iterdir())[0]
    path.write_bytes(path.read_bytes() + b"\n")
    return path.name


def change_annotations(data: Path) -> None:
    path = data / "val.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1))


def test_unchanged_data_is_resumed_without_a_word(run: Path, data: Path) -> None:
    before = (run / "data.json").read_bytes()
    assert check(run, data) == ""
    assert (run / "data.json").read_bytes() == before
    assert [path.name for path in run.iterdir()] == ["data.json"]


def test_changed_data_is_refused_until_it_is_accepted(run: Path, data: Path) -> None:
    name = change_image(data)
    change_annotations(data)
    message = (
        rf"the data of the run \S+ has changed since it was recorded: 1 image of 3 of train\.json "
        rf"differs \(\S*{name}\); val\.json has another content; restore the original files, or "
        r"accept the changes: `resnet-tasks finetune --resume \S+ --accept-changed-data`"
    )
    before = (run / "data.json").read_bytes()
    for _ in range(2):
        with pytest.raises(RunError, match=message):
            check(run, data)
    assert (run / "data.json").read_bytes() == before
    assert "continuing with changed data (--accept-changed-data): 1 image of 3" in " ".join(
        check(run, data, accept=True).split()
    )
    (accepted,) = json.loads((run / "data.json").read_text())["accepted_changes"]
    assert accepted["changes"][1] == "val.json has another content"
    event = json.loads((run / "log.jsonl").read_text())
    assert (event["event"], event["changes"]) == ("data_changed", accepted["changes"])
    assert check(run, data) == ""  # the changed data is now that of the run
    change_image(data)
    check(run, data, accept=True)
    assert len(json.loads((run / "data.json").read_text())["accepted_changes"]) == 2


def test_changes_are_accepted_only_if_the_run_can_be_resumed(run: Path, data: Path) -> None:
    """Otherwise the original files, once restored, would count as changed."""
    path = data / "val.json"
    original = path.read_text()
    change_annotations(data)
    assert "val.json has another content" in check(run, data, accept=True, write=False)
    path.write_text(original)
    assert check(run, data) == ""


def test_a_run_of_an_earlier_version_resumes_with_a_note(run: Path, data: Path) -> None:
    (run / "data.json").unlink()
    expected = "has no data.json: it was removed, or an earlier version started the run; changes"
    assert expected in " ".join(check(run, data).split())
    change_image(data)
    with pytest.raises(RunError, match="has changed"):
        check(run, data)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 1, "splits": {"a": [1]}}'])
def test_a_damaged_record_is_named(text: str, run: Path, data: Path) -> None:
    (run / "data.json").write_text(text)
    with pytest.raises(
        RunError, match=r"data\.json is damaged .* as it is: `resnet-tasks finetune"
    ):
        check(run, data)
    assert "data.json was damaged" in check(run, data, accept=True)
    assert check(run, data) == ""


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to a folder"])
def test_what_is_no_file_in_place_of_the_record_must_be_removed(
    kind: str, run: Path, data: Path
) -> None:
    """`--accept-changed-data` is not recommended, because it could not write the new record."""
    path = run / "data.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (run / "other").mkdir()
        path.symlink_to(run / "other")
    for accept in (False, True):
        with pytest.raises(RunError, match=r"or remove \S+data\.json, so that the data") as caught:
            check(run, data, accept=accept)
        assert "--accept-changed-data" not in str(caught.value)
    path.rmdir() if kind == "folder" else path.unlink()
    assert "it was removed, or an earlier" in " ".join(check(run, data).split())
    assert check(run, data) == ""


def test_a_record_of_a_later_version_is_refused(run: Path, data: Path) -> None:
    (run / "data.json").write_text('{"format": 2}')
    for accept in (False, True):
        with pytest.raises(RunError, match=r"data\.json was written by a newer .* version 2, this"):
            check(run, data, accept=accept)
