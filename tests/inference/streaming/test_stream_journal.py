"""The journal: lines that survive a kill, and the files made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resnet_tasks.errors import RunError
from resnet_tasks.inference.streaming.stream_journal import BatchResult, FrameResult, StreamJournal

SETTINGS = {"score": None, "digest": "x"}


def result(unit: int, *names: str, batch: int = 0, reason: str = "") -> BatchResult:
    size = None if reason else (4, 6)
    entries = {} if reason else {"objects": [{"category_id": unit, "score": 0.5}]}
    frames = tuple(FrameResult(each, size=size, entries=entries, reason=reason) for each in names)
    return BatchResult(unit, batch, frames)


def test_lines_become_the_files_in_the_order_of_the_units(tmp_path: Path) -> None:
    journal = StreamJournal(tmp_path, SETTINGS)
    journal.add(result(2, "c"))
    journal.add(result(0, "a", "b"))
    journal.add(result(1, "bad", reason="it is broken"))
    assert (journal.num_predicted, journal.num_unreadable, journal.ended_units) == (3, 1, {0, 1, 2})
    journal.finish([{"id": 1, "name": "x"}])
    listed = json.loads((tmp_path / "images.json").read_text())
    assert [(each["id"], each["file_name"]) for each in listed["images"]] == [
        (1, "a"),
        (2, "b"),
        (4, "c"),  # 3 is that which cannot be read
    ]
    assert listed["categories"] == [{"id": 1, "name": "x"}]
    assert json.loads((tmp_path / "objects.json").read_text()) == [
        {"image_id": 1, "category_id": 0, "score": 0.5},
        {"image_id": 2, "category_id": 0, "score": 0.5},
        {"image_id": 4, "category_id": 2, "score": 0.5},
    ]
    (bad,) = (tmp_path / "unreadable_images.jsonl").read_text().splitlines()
    assert json.loads(bad) == {"file": "bad", "frame": None, "reason": "it is broken"}
    assert not list(tmp_path.glob("stream.*"))


def test_a_line_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    journal = StreamJournal(tmp_path, SETTINGS)
    journal.add(result(0, "a"))
    journal.add(result(1, "b"))
    journal.close()
    path = tmp_path / "stream.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        again = StreamJournal(tmp_path, SETTINGS)
        assert again.done_batches == {(0, 0)}
        again.add(result(1, "b"))
        again.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize("head", ["/{}/escaped", "../escaped", "images"])
def test_heads_of_lines_are_no_paths(tmp_path: Path, head: str) -> None:
    """The journal lies in a folder that others may have written to."""
    out = tmp_path / "out"
    out.mkdir()
    journal = StreamJournal(out, SETTINGS)
    frame = FrameResult("a", size=(4, 6), entries={head.format(tmp_path): [{"score": 0.5}]})
    journal.add(BatchResult(0, 0, (frame,)))
    with pytest.raises(RunError, match=r"stream\.jsonl .*--overwrite\): the head name"):
        journal.finish([])
    assert {each.name for each in tmp_path.rglob("*")} == {"out", "stream.json", "stream.jsonl"}


@pytest.mark.parametrize(
    "line",
    [
        '{"unit": 0, "batch": 0, "frames": [{"file_name": 1e308}]}',
        '{"batch": 0, "frames": []}',
        '{"unit": 0, "batch": 0, "frames": [{"file_name": "a", "size": [4]}]}',
        '{"unit": 0, "batch": 0, "frames": [{"file_name": "a", "*eason": ""}]}',
        '{"unit": 0, "batch": 0, "frames": [{"file_name": "a", "entries": {"objects": [1]}}]}',
        "",
    ],
)
def test_damaged_lines_are_refused_by_number(tmp_path: Path, line: str) -> None:
    """A complete line that is damaged was not cut off by a kill."""
    journal = StreamJournal(tmp_path, SETTINGS)
    journal.add(result(0, "a"))
    journal.close()
    with (tmp_path / "stream.jsonl").open("a") as stream:
        stream.write(line + "\n")
    before = (tmp_path / "stream.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"stream\.jsonl is damaged \(line 2: .*with --overwrite"):
        StreamJournal(tmp_path, SETTINGS)
    assert (tmp_path / "stream.jsonl").read_bytes() == before


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    StreamJournal(tmp_path, SETTINGS).close()
    with pytest.raises(RunError, match=r"score was None, now 0\.5; resume with the same command"):
        StreamJournal(tmp_path, {**SETTINGS, "score": 0.5})
    (tmp_path / "stream.json").write_text("{")
    with pytest.raises(RunError, match=r"stream\.json is damaged .*; start over with --overwrite"):
        StreamJournal(tmp_path, SETTINGS)
    anew = StreamJournal(tmp_path, {"score": 0.5}, overwrite=True)
    assert not anew.done_batches
    anew.close()
    StreamJournal(tmp_path, {"score": 0.5}).close()


def test_no_result_at_all_is_an_empty_list(tmp_path: Path) -> None:
    journal = StreamJournal(tmp_path, SETTINGS)
    frame = FrameResult("a", size=(4, 6), entries={"objects": []})
    journal.add(BatchResult(0, 0, (frame,)))
    journal.finish([])
    assert json.loads((tmp_path / "objects.json").read_text()) == []
    assert not (tmp_path / "unreadable_images.jsonl").exists()


def test_a_video_keeps_frame_and_time(tmp_path: Path) -> None:
    journal = StreamJournal(tmp_path, SETTINGS)
    frame = FrameResult("a.mp4", 30, 1.0, (4, 6), {})
    journal.add(BatchResult(0, 0, (frame,), is_last=False))
    assert journal.ended_units == set()
    journal.add(BatchResult(0, 1, (), note="it is cut off", video="a.mp4"))
    assert journal.ended_units == {0}
    assert journal.find_first_reason() == "it is cut off"
    journal.finish([])
    (record,) = json.loads((tmp_path / "images.json").read_text())["images"]
    assert (record["frame"], record["seconds"]) == (30, 1.0)
    (bad,) = (tmp_path / "unreadable_images.jsonl").read_text().splitlines()
    assert json.loads(bad) == {"file": "a.mp4", "frame": None, "reason": "it is cut off"}
