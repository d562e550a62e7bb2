import json
from pathlib import Path

import pytest

from data_tools.reading import json_streaming
from data_tools.reading.json_streaming import stream_objects, stream_objects_with_progress
from resnet_tasks.errors import DataError


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_any_window_gives_the_same(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_streaming, "CHUNK", chunk)
    items = [{"a": [1, {"b": '],}"é\\'}], "n": 12.5e3}, {}, {"x": None}]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(items, indent=3), encoding="utf-8")
    assert list(stream_objects(file)) == items
    held = {"n": 123, "frames": items, "after": [1]}
    file.write_text(json.dumps(held), encoding="utf-8")
    assert list(stream_objects(file, "frames")) == items
    file.write_text(" [ ] ")
    assert list(stream_objects(file)) == []
    file.write_text(json.dumps(held))
    with pytest.raises(DataError, match="has no key 'other'"):
        list(stream_objects(file, "other"))


def test_fractions_are_those_of_the_parsed_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"a": 1}, {"b": 2}]')
    assert list(stream_objects_with_progress(tmp_path / "a.json")) == [
        ({"a": 1}, 9 / 20),
        ({"b": 2}, 19 / 20),
    ]


def test_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    with pytest.raises(DataError, match=r"x\.json is missing"):
        list(stream_objects(file))
    file.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match="not UTF-8 text"):
        list(stream_objects(file))
    file.write_text("{}")
    with pytest.raises(DataError, match="should contain a list of objects"):
        list(stream_objects(file))
