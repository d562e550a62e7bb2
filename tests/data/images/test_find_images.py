import json
import unicodedata
from pathlib import Path

import pytest

from data_tools.reading.recorded_paths import RecordedPaths
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.doctor.check import check_coco
from resnet_tasks.data.images.find_images import (
    find_file,
    find_files,
    find_path,
    is_system_name,
)


@pytest.mark.parametrize(
    ("name", "is_system"),
    [
        *((name, True) for name in (".git", "._a.jpg", "Thumbs.db", "@eaDir", "__MACOSX")),
        *((name, True) for name in ("$RECYCLE.BIN", "System Volume Information", "@__thumb")),
        *((name, False) for name in ("a.jpg", "_a.jpg", "@home", "thumbs.jpg", "...".strip("."))),
    ],
)
def test_names_of_systems(name: str, is_system: bool) -> None:
    assert is_system_name(name) == is_system


def test_folders_are_searched_without_system_files(tmp_path: Path) -> None:
    root = tmp_path / ".data"  # the user chose this folder, although its name is hidden
    names = ("a.jpg", "._a.jpg", "sub/b.jpg", ".cache/c.jpg", "sub/@eaDir/b.jpg/t.jpg", "n.txt")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert find_files([root], {".jpg"}, recursive=True) == ([root / "a.jpg", root / "sub/b.jpg"], 1)
    # The text file and the folder `sub` are skipped.
    assert find_files([root], {".jpg"}) == ([root / "a.jpg"], 2)
    assert find_files([root / ".cache/c.jpg"], {".jpg"}) == ([root / ".cache/c.jpg"], 0)
    assert find_files([root / ".cache"], {".jpg"}) == ([root / ".cache/c.jpg"], 0)


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    nfc = "gr\u00f6\u00dfe.png"
    nfd = unicodedata.normalize("NFD", nfc)
    (tmp_path / nfd).touch()
    assert find_file(tmp_path / nfc) == tmp_path / nfd
    assert find_file(tmp_path / nfd) == tmp_path / nfd
    assert find_file(tmp_path / "gro\u00dfe.png") is None
    assert find_file(tmp_path / ("\u00f6" * 300)) is None
    assert find_file(tmp_path / "none" / nfc) is None
    content = {
        "images": [{"id": 1, "file_name": nfc, "height": 10, "width": 20}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    coco = read_coco(tmp_path / "train.json")
    assert coco.image_path(coco.images[0]) == tmp_path / nfd
    assert coco.find_missing_files() == ()
    kinds = [problem.kind for problem in check_coco(tmp_path / "train.json").problems]
    assert "missing_file" not in kinds


def test_folders_in_another_unicode_form(tmp_path: Path) -> None:
    nfc = "\u00e9/a/\u00f6"
    nfd = unicodedata.normalize("NFD", nfc)
    (tmp_path / nfd).mkdir(parents=True)
    for name in ("b.png", "c\u0301.png"):
        (tmp_path / nfd / name).touch()
    assert find_file(tmp_path / nfc / "b.png") == tmp_path / nfd / "b.png"
    assert find_file(tmp_path / nfc / "\u0107.png") == tmp_path / nfd / "c\u0301.png"
    assert find_path(tmp_path / nfc) == tmp_path / nfd
    assert find_file(tmp_path / nfc) is None
    assert find_file(tmp_path / nfc / "d.png") is None
    assert find_file(tmp_path / nfc / "b.png" / "\u00e9") is None
    assert RecordedPaths(tmp_path).find(f"{nfc}/b.png", "x", "train") == tmp_path / nfd / "b.png"


def test_passed_paths_in_another_unicode_form(tmp_path: Path) -> None:
    stored = tmp_path / unicodedata.normalize("NFD", "größe.png")
    stored.touch()
    passed = tmp_path / unicodedata.normalize("NFC", "größe.png")
    assert find_files([passed], {".png"}) == ([stored], 0)
