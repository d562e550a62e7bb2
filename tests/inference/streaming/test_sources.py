"""What is predicted, and in which order."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from resnet_tasks.errors import DataError
from resnet_tasks.inference.streaming.sources import (
    Source,
    compute_digest,
    find_sources,
    group_into_units,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "clip.MP4", "notes.txt", "below/c.png", "below/deep/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(*paths: Path, **how: object) -> tuple[list[str], int]:
    sources, others = find_sources(paths, **how)  # type: ignore[arg-type]
    return [f"{each.path.name} {each.name}" for each in sources], others


def test_folders_are_searched_with_videos(folder: Path) -> None:
    assert found(folder) == (["a.jpg a", "b.PNG b", "clip.MP4 clip"], 2)  # a text, a folder
    names, others = found(folder, recursive=True)
    assert names == ["a.jpg a", "b.PNG b", "c.png c", "a.png a-2", "clip.MP4 clip"]
    assert others == 1


def test_patterns_and_lists(folder: Path) -> None:
    assert found(folder / "*.jpg")[0] == ["a.jpg a"]
    assert found(folder / "**/*.png")[0] == ["c.png c", "a.png a-2"] or found(folder / "**/*.png")[
        0
    ] == ["c.png c", "a.png a"]
    listed = folder / "list"
    listed.write_text(f"# mine\n\n{folder / 'b.PNG'}\n{folder / 'a.jpg'}\n{folder / 'b.PNG'}\n")
    assert found(list_file=listed)[0] == ["b.PNG b", "a.jpg a"]
    listed.write_bytes(b"\xef\xbb\xbf" + listed.read_bytes())  # Windows editors add this mark
    assert found(list_file=listed)[0] == ["b.PNG b", "a.jpg a"]


def test_nothing_and_absent_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image .* and no video .*use --recursive"):
        find_sources([tmp_path])
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        find_sources([tmp_path / "gone.png"])
    with pytest.raises(DataError, match=r"no file matches the pattern .*\*\.png"):
        find_sources([tmp_path / "*.png"])
    with pytest.raises(DataError, match=r"the list .*gone cannot be read"):
        find_sources([], list_file=tmp_path / "gone")


def test_units_are_batches_of_neighbors_and_videos() -> None:
    names = ["a.png", "b.png", "c.png", "v.mp4", "d.png", "w.avi"]
    sources = [Source(Path(each), each) for each in names]
    units = list(group_into_units(sources, 2))
    assert [[each.name for each in unit.sources] for unit in units] == [
        ["a.png", "b.png"],
        ["c.png"],
        ["v.mp4"],
        ["d.png"],
        ["w.avi"],
    ]
    assert [unit.number for unit in units] == [0, 1, 2, 3, 4]
    assert [unit.video is not None for unit in units] == [False, False, True, False, True]
    assert list(group_into_units([], 2)) == []


def test_the_digest_is_of_paths_in_order() -> None:
    one, two = Source(Path("a.png"), "a"), Source(Path("b.png"), "b")
    assert compute_digest([one, two]) == compute_digest([one, two])
    assert compute_digest([one, two]) != compute_digest([two, one])


def test_medical_files_name_their_converter(tmp_path: Path) -> None:
    for name in ("a.dcm", "below/b.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match=r"; a\.dcm is a DICOM file; .*data convert dicom"):
        find_sources([tmp_path])
    with pytest.raises(DataError, match=r"; 2 files, such as a\.dcm, are not images: .*dicom"):
        find_sources([tmp_path], recursive=True)


@pytest.mark.parametrize("url", ["https://a.org/b.jpg?size=*", "s3://bucket/b.png"])
def test_urls_are_not_downloaded(tmp_path: Path, url: str) -> None:
    (tmp_path / "list").write_text(url)
    for paths, listed in (([Path(url)], None), ([], tmp_path / "list")):
        with pytest.raises(DataError) as info:
            find_sources(paths, list_file=listed)
        assert str(info.value).startswith(f"{url} is a URL, but only local files are read and")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a b.png\n", ["a b.png"]),
        ("\ufeffa b.png\r\n\r\n".encode("utf-16-le"), ["a b.png"]),
        (b"\xef\xbb\xbf'a b.png'\n\"a b.png\"\n", ["a b.png"]),
        (unicodedata.normalize("NFD", "ü.png").encode(), ["ü.png"]),
        (b"'q'.png\n", ["'q'.png"]),
    ],
)
def test_lines_are_found_next_to_the_list(tmp_path: Path, content: bytes, names: list[str]) -> None:
    for name in ("a b.png", "ü.png", "'q'.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "list.txt").write_bytes(content)
    sources, _ = find_sources([], list_file=tmp_path / "list.txt")
    assert [source.path for source in sources] == [tmp_path / name for name in names]


def test_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    for file in ("a.png", "lists/a.png"):
        (tmp_path / file).write_bytes(b"")
    (tmp_path / "lists/list.txt").write_text("a.png\n")
    monkeypatch.chdir(tmp_path)
    sources, _ = find_sources([], list_file=Path("lists/list.txt"))
    assert [source.path for source in sources] == [Path("a.png")]
    (tmp_path / "lists/list.txt").write_text("absent.png\n")
    with pytest.raises(DataError, match=r"absent\.png does not exist"):
        find_sources([], list_file=Path("lists/list.txt"))
