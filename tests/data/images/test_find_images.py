from pathlib import Path

import pytest

from resnet_tasks.data.images.find_images import find_files, is_system_name


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
