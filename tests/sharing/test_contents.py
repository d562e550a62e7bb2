"""Files of a shared run, without a hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resnet_tasks.errors import HubError
from resnet_tasks.sharing.contents import SharedFile, require_no_local_paths


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
