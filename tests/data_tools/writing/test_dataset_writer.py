import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_tools.catalog import convert
from data_tools.formats import FORMATS
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import EstimatedCounter, track_splits
from resnet_tasks.errors import DataError, ResnetTasksError

FORMATS_PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def images(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        Image.new("RGB", (20, 10)).save(folder / name)
    return folder


def test_splits_are_written_one_after_the_other(tmp_path: Path) -> None:
    source = images(tmp_path / "in", "a.png", "b.png", "c.png")
    dataset = DatasetWriter(
        tmp_path / "out",
        [CategorySpec("car")],
        annotated=("image",),
        description="Photos, {split}, of {braces}",
        images_root=source,
        license_name="CC0-1.0",
    )
    events: list[object] = []

    def read(names: str) -> Iterator[str]:
        events.append(f"open {names}")
        yield from names

    def add(writer: CocoWriter, name: str) -> None:
        events.append(f"{writer.split} {name}")
        writer.add_label(writer.add_image(source / f"{name}.png"), "car")

    def finish(writer: CocoWriter) -> None:
        events.append((writer.split, (tmp_path / "out" / f"{writer.split}.json").exists()))
        writer.report.add_note(f"a note on {writer.split}")
        writer.report.warn("a warning", "another")

    train, val = dataset.write({"train": read("ab"), "val": read("c")}, add, finish)
    assert events == [
        *("open ab", "train a", "train b", ("train", False)),
        *("open c", "val c", ("val", False)),
    ]
    assert (train.images, val.images) == (2, 1)
    assert train.notes == ("a note on train",)
    assert val.warnings == ("a warning", "another")
    content = load(tmp_path / "out/train.json")
    assert content["info"]["description"] == "Photos, train, of {braces}"
    assert content["info"]["images_root"] == source.as_posix()
    assert content["licenses"] == [{"id": 1, "name": "CC0-1.0"}]
    assert [record["file_name"] for record in content["images"]] == ["a.png", "b.png"]


def test_progress_counts_the_images_of_all_splits() -> None:
    reports: list[tuple[int, int]] = []
    splits = track_splits({"train": "ab", "val": "c"}, lambda *report: reports.append(report))
    assert [(split, list(names)) for split, names in splits.items()] == [
        ("train", ["a", "b"]),
        ("val", ["c"]),
    ]
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_the_total_is_estimated_from_the_sizes_of_the_files() -> None:
    reports: list[tuple[int, int]] = []
    count = EstimatedCounter([100, 300], lambda *report: reports.append(report))
    assert list(count.track([("a", 0.5), ("b", 1.0)])) == ["a", "b"]
    assert list(count.track([("c", 0.5)])) == ["c"]
    # 1 image in 50 of 400 bytes, 2 in 100, 3 in 250, and then the exact number.
    assert reports == [(1, 8), (2, 8), (3, 5), (3, 3)]


def test_the_format_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(
        r"```python\n((?:(?!```).)*register_format\(.*?)```", FORMATS_PAGE.read_text(), re.DOTALL
    )
    (tmp_path / "box_lists_plugin.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)

    class Point:
        name = "box-lists"

        def load(self) -> None:
            __import__("box_lists_plugin")

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    monkeypatch.setattr(FORMATS, "_items", {})
    source = images(tmp_path / "in", "a.png", "b.png", "c.png")
    (source / "train.txt").write_text("a.png car -4 2 8 30\nb.png bus 9 9 9 9\n")
    (source / "val.txt").write_text("c.png bus 1 2 3 4\n")
    reports: list[tuple[int, int]] = []
    card = convert(
        "box-lists",
        source,
        tmp_path / "out",
        classes=["bus", "car"],
        progress=lambda *report: reports.append(report),
    )
    assert reports == [(1, 3), (2, 3), (3, 3)]
    assert [split.objects for split in card.splits] == [{"bus": 0, "car": 1}, {"bus": 1, "car": 0}]
    assert [(skipped.file, skipped.reason) for skipped in card.splits[0].skipped] == [
        ("b.png", "its box has no area inside the image")
    ]
    (annotation,) = load(tmp_path / "out/train.json")["annotations"]
    assert annotation["bbox"] == [0, 2, 8, 8]
    assert (tmp_path / "out/data_card.md").is_file()
    with pytest.raises(DataError, match=r"needs 1 option: classes"):
        convert("box-lists", source, tmp_path / "more")
    for line in ("a.png", "a.png car 1 2 3", "a.png car 1 2 x 4"):
        (source / "train.txt").write_text(line)
        with pytest.raises(DataError, match=f"in: expected a line .* got '{line}'"):
            convert("box-lists", source, tmp_path / "more", classes=["bus", "car"])
    with pytest.raises(ResnetTasksError, match="unknown format 'box-list'"):
        convert("box-list", source, tmp_path / "more")
