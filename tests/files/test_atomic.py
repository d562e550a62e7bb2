"""Files are there whole or not at all, and what cannot be written is told in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.files.atomic import json_text, remove_files_on_error, write_json, write_text


def test_a_new_text_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "deep/file.json"
    write_text(path, "old")
    write_json(path, {"ü": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "ü": 1\n}\n'
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_what_is_stopped_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def stopped(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("resnet_tasks.files.atomic.os.fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"file/page\.html cannot be written \(.+\); free space"):
        write_text(tmp_path / "file/page.html", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="folder cannot be written"):
        write_text(tmp_path / "folder", "text")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def stopped(paths: Sequence[Path], written: Sequence[Path]) -> None:
    with remove_files_on_error(paths):
        for path in written:
            write_text(path, "new")
        raise KeyboardInterrupt


def test_of_several_new_files_all_are_there_or_none(tmp_path: Path) -> None:
    paths = [tmp_path / "deep/er/a.json", tmp_path / "deep/b.json", tmp_path / "c.json"]
    (tmp_path / "kept").touch()
    with pytest.raises(KeyboardInterrupt):
        stopped(paths, paths[:2])
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    with remove_files_on_error(paths):
        for path in paths:
            write_text(path, "new")
    assert all(path.is_file() for path in paths)


def test_a_folder_that_others_write_to_stays(tmp_path: Path) -> None:
    own, other = tmp_path / "new/own.json", tmp_path / "new/of another.json"
    with pytest.raises(KeyboardInterrupt):
        stopped([own], [own, other])
    assert [each.name for each in (tmp_path / "new").iterdir()] == [other.name]


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    value = {"file": name, "other": "caf\u00e9", "lone": "\ud800"}
    write_json(tmp_path / "a.json", value)
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert read == {"file": "caf\\xe9", "other": "caf\u00e9", "lone": "\\ud800"}
    assert json.loads(json_text(value, is_lossless=True).encode()) == value
    write_text(tmp_path / "a.txt", f"{name} \u00e9")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\xe9 \u00e9"
