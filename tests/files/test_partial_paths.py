"""Names of unfinished results: unique, and cleaned up after dead processes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_tasks.files import partial_paths
from resnet_tasks.files.atomic import open_atomic, open_together, replace_folder
from resnet_tasks.files.partial_paths import (
    ABANDONED_SECONDS,
    create_partial_path,
    has_exited,
    is_partial,
)

CREATE = """
import sys
from pathlib import Path
from resnet_tasks.files.partial_paths import create_partial_path
print(create_partial_path(Path(sys.argv[1])))
sys.stdin.read()
"""


def start_writer(path: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that writes `path`; return it with the name that it uses."""
    process = subprocess.Popen(
        [sys.executable, "-c", CREATE, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().rstrip())


def test_names_are_unique_and_hidden(tmp_path: Path) -> None:
    names = {create_partial_path(tmp_path / "a.json").name for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(".a.json@") and name.endswith(".partial") for name in names)
    assert all(is_partial(Path(name)) for name in names)
    assert not is_partial(tmp_path / "a.json")


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    process, partial = start_writer(path)
    with process:
        partial.mkdir()
        (partial / "a").touch()
        os.utime(partial / "a", (0, 0))
        os.utime(partial, (0, 0))
        create_partial_path(path)
        assert (partial / "a").is_file()
        process.kill()
    create_partial_path(tmp_path / "another")
    assert (partial / "a").is_file()
    create_partial_path(path)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_folder_gets_its_name_back(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    process, partial = start_writer(path)
    previous = partial.with_suffix(".previous")
    with process:
        previous.mkdir()
        create_partial_path(path)
        assert [each.name for each in tmp_path.iterdir()] == [previous.name]
        process.kill()
    create_partial_path(path)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    path.rename(previous)
    path.mkdir()
    create_partial_path(path)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_an_earlier_process_with_the_same_id(tmp_path: Path) -> None:
    """A container that starts again often has the same process id."""
    own = create_partial_path(tmp_path / "a")
    host, pid, _ = own.name.split("-")
    earlier = tmp_path / f"{host}-{pid}-00000000{0:x}.partial"
    own.touch()
    earlier.touch()
    create_partial_path(tmp_path / "a")
    assert own.is_file()
    assert not earlier.exists()


def test_long_names_leave_room_for_the_writer(tmp_path: Path) -> None:
    for stem in ("n" * 250, "\u00e4" * 125):
        with open_atomic(tmp_path / f"{stem}.json") as stream:
            stream.write("{}")
        assert (tmp_path / f"{stem}.json").read_text() == "{}"
        dead = create_partial_path(tmp_path / f"{stem}.json").name
        leftover = tmp_path / dead.replace(str(os.getpid()), "4194305")
        leftover.touch()
        create_partial_path(tmp_path / f"{stem}.json")
        assert not leftover.exists()


def test_the_working_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with replace_folder(Path()) as partial:
        (partial / "a").touch()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no pid namespaces")
def test_containers_with_one_host_name_are_different_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process id of another container says nothing about a process here."""
    host = partial_paths._describe_host()
    monkeypatch.setattr(os, "readlink", lambda path: f"another {path}")
    assert partial_paths._describe_host() != host


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_machine(tmp_path: Path, kind: str) -> None:
    """Whether a process of another machine lives is unknown: its files stay for a day."""
    partial = tmp_path / f".a@00000000-{os.getpid()}-123456780.partial"
    newest = partial
    if kind == "folder":
        partial.mkdir()
        newest = partial / "content"
    newest.touch()
    old = time.time() - ABANDONED_SECONDS - 60
    os.utime(partial, (old, old))
    os.utime(newest, (old + 120, old + 120))
    create_partial_path(tmp_path / "a")
    assert newest.exists()
    os.utime(newest, (old, old))
    create_partial_path(tmp_path / "a")
    assert not partial.exists()


def test_other_names_stay(tmp_path: Path) -> None:
    own = create_partial_path(tmp_path / "a")
    dead = own.name.replace(str(os.getpid()), "4194305")  # above the largest process id
    names = [".a@notes.partial", ".a@1-2-3.partial", "a.partial", dead.replace(".a@", ".a.b@")]
    for name in [*names, dead]:
        (tmp_path / name).touch()
    create_partial_path(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_one_process_may_write_a_result_twice_at_once(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "a") as first, open_atomic(tmp_path / "a") as second:
        first.write("first")
        second.write("second")
    assert (tmp_path / "a").read_text() == "first"  # it is closed last
    with replace_folder(tmp_path / "b") as outer, replace_folder(tmp_path / "b") as inner:
        (outer / "outer").touch()
        (inner / "inner").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["outer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_process_that_has_ended() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    assert not has_exited(os.getpid())
    process.wait()
    assert has_exited(process.pid)
    assert not has_exited("a name")


def test_an_incomplete_set_of_files_is_removed(tmp_path: Path) -> None:
    """The process was killed when `a` had its final name and `b` had not."""
    leftover = tmp_path / f".files@{partial_paths._HOST}-4194305-00000000{0:x}.partial"
    leftover.mkdir()
    for path in (tmp_path / "a", tmp_path / "changed", tmp_path / "other", leftover / "b"):
        path.write_text("content")
    identities = {}
    for path in (tmp_path / "a", tmp_path / "changed", leftover / "b"):
        identities[path.name] = [path.stat().st_size, path.stat().st_mtime_ns]
    (tmp_path / "changed").write_text("edited since then")
    (leftover / partial_paths.FILE_LIST).write_text(json.dumps(identities))
    with open_together((tmp_path / "a", tmp_path / "b")) as streams:
        for stream in streams:
            stream.write("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a": "new",
        "b": "new",
        "changed": "edited since then",
        "other": "content",
    }


def test_a_complete_set_of_files_stays(tmp_path: Path) -> None:
    """The process was killed after both files had their final names."""
    leftover = tmp_path / f".files@{partial_paths._HOST}-4194305-00000000{0:x}.partial"
    leftover.mkdir()
    identities = {}
    for name in ("a", "b"):
        (tmp_path / name).write_text("content")
        status = (tmp_path / name).stat()
        identities[name] = [status.st_size, status.st_mtime_ns]
    (leftover / partial_paths.FILE_LIST).write_text(json.dumps(identities))
    create_partial_path(tmp_path / "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("name", ["../victim", "..", "/victim", "folder/victim", ""])
def test_a_list_of_files_cannot_name_other_folders(name: str, tmp_path: Path) -> None:
    """A foreign folder may contain a leftover that was made up."""
    (tmp_path / "foreign/folder").mkdir(parents=True)
    victims = [tmp_path / "victim", tmp_path / "foreign/folder/victim"]
    leftover = tmp_path / f"foreign/.files@{partial_paths._HOST}-4194305-00000000{0:x}.partial"
    leftover.mkdir()
    (leftover / "b").touch()
    for victim in victims:
        victim.touch()
        os.utime(victim, ns=(0, 0))
    listed = {"b": [0, 0], name.replace("/victim", str(victims[0])): [0, 0], name: [0, 0]}
    (leftover / partial_paths.FILE_LIST).write_text(json.dumps(listed))
    create_partial_path(tmp_path / "foreign/files")
    assert all(victim.exists() for victim in victims)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["folder"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "b": null}', "null", "[" * 100_000])
def test_a_damaged_list_of_files(text: str, tmp_path: Path) -> None:
    leftover = tmp_path / f".files@{partial_paths._HOST}-4194305-00000000{0:x}.partial"
    leftover.mkdir()
    (leftover / partial_paths.FILE_LIST).write_text(text)
    (leftover / "b").touch()
    (tmp_path / "a").touch()
    create_partial_path(tmp_path / "files")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_all_unfinished_results_of_this_process_are_removed(tmp_path: Path) -> None:
    """A signal may arrive after a folder was created and before the block that removes it."""
    manager = replace_folder(tmp_path / "new")
    (manager.__enter__() / "content").touch()
    replaced = create_partial_path(tmp_path / "old")
    replaced.with_suffix(".previous").mkdir()
    with replace_folder(tmp_path / "finished"):
        pass
    partial_paths.remove_unfinished()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finished", "old"]
