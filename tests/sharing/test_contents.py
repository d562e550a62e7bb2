"""Files of a shared run, without a hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_tasks.errors import HubError
from resnet_tasks.sharing.contents import SharedFile, require_no_local_paths, strip_paths


def check(folder: Path, root: str, text: str) -> None:
    """Check a shared text of a run whose recipe has the given `data.root`."""
    view: Any = SimpleNamespace(
        folder=folder, recipe=SimpleNamespace(data=SimpleNamespace(root=root))
    )
    require_no_local_paths([SharedFile("plugins/0_mine.py", text.encode())], view)


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ("/data/cells", "'/data/cells/a.json'"),
        ("/data/cells/", "'/data/cells/a.json'"),
        ("/data/cells", "'/data/cells'"),
        ("C:\\data\\cells", r"r'C:\data\cells\a.json'"),
        ("C:\\data\\cells", r"'c:\\data\\cells\\a.json'"),
        ("C:\\data\\cells", "'C:/data/cells'"),
        ("D:/cells", r"'D:\\cells'"),
        ("\\\\server\\share", r"r'\\server\share\a.json'"),
        ("\\\\server\\share\\cells", r"'\\\\server\\share\\cells'"),
        ("//server/share/cells", "'//server/share/cells'"),
    ],
)
def test_local_paths_of_any_system_are_found(tmp_path: Path, root: str, text: str) -> None:
    with pytest.raises(HubError) as error:
        check(tmp_path, root, f"DATA = {text}\n")
    assert f"contains the local path {root}, which" in str(error.value)


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ("/", "'a/b'"),
        ("C:\\", r"'C:\\x'"),
        ("C:", "'C:'"),
        ("cells", "'cells/a.json'"),
        ("/data/cells", "'/data/cells-2' '/data/cells2' '/DATA/cells'"),
        ("C:\\data", r"r'C:\data2'"),
    ],
)
def test_roots_and_other_folders_are_no_local_paths(tmp_path: Path, root: str, text: str) -> None:
    check(tmp_path, root, f"DATA = {text}\n")


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("/data/my place/a.json", "a.json"),
        ("see /data/my place/of mine/a.json, bad", "see a.json, bad"),
        ("'/home/jo do/x y.json' is missing", "'x y.json' is missing"),
        ("see /data/Doe, John (2)/a.json: bad", "see a.json: bad"),
        ("see '/data/O'Brien/a b/c.json' there", "see 'c.json' there"),
        ("from /data/a b/c to /data/d e/f", "from c to f"),
        ("'/a b/c' is not '/d e/f'", "'c' is not 'f'"),
        ("/data/a b/c.zip and /data/d e/f.zip", "c.zip and f.zip"),
        ("/data/a\nb/c.zip", "c.zip"),
        ("(/data/secret place/a.json)", "(a.json)"),
        ("out=/home/jo do/a", "out=a"),
        ("~/my data/x.json", "x.json"),
        ("~jo/my data/x.json is there", "x.json is there"),
        ("file:///home/jo do/x", "x"),
        ("see C:\\Users\\Jo Do\\a b.json", "see a b.json"),
        ("see C:/Users/Jo Do/a.json", "see a.json"),
        ("on \\\\server\\share\\Jo Do\\a.png now", "on a.png now"),
        ("/data/größe x/日本 語/a.png", "a.png"),
        ('"/a b/c": 3, "/d e/f": 4', '"c": 3, "f": 4'),
        ("first\n/home/jo do/b c/d", "first\nd"),
        # No paths.
        ("IoU 0.5:0.95, 3/4 of a/b per image", "IoU 0.5:0.95, 3/4 of a/b per image"),
        ("https://example.org/a b/c", "https://example.org/a b/c"),
        ("0.5 / 2 per / px", "0.5 / 2 per / px"),
    ],
)
def test_paths_with_spaces_in_sentences_become_names(text: str, stripped: str) -> None:
    assert strip_paths(text) == stripped
    assert strip_paths({"a": [text]}) == {"a": [stripped]}
