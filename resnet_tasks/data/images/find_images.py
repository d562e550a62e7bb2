"""Search for image files by path, folder and pattern, and generation of unique output names."""

from __future__ import annotations

import glob
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from resnet_tasks.data.images.image_files import SUFFIXES
from resnet_tasks.errors import DataError
from resnet_tasks.files.foreign_files import describe_address, describe_foreign_files

_SYSTEM_NAMES = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("icon\r", "__macosx", "@eadir", "@__thumb", "#recycle", "@recycle", "lost+found"),
        "__pycache__",
    )
)
"""Names without a leading dot of files and folders of operating systems and NAS, lower case."""
MAX_OUTPUT_NAME = 255 - len(".png")
"""Maximum length of an output name in bytes: file systems allow 255 bytes with the suffix."""


def is_system_name(name: str) -> bool:
    """Return whether a file or folder is hidden, or was created by an operating system.

    These hold no data of the user: macOS writes `._NAME` next to each file, Jupyter keeps old
    versions in `.ipynb_checkpoints`, and a Synology NAS keeps thumbnails in `@eaDir`.
    """
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_system_path(path: Path, root: Path) -> bool:
    """Return whether a path inside `root` is a system file or lies in a system folder.

    The parts of `root` itself do not count, because the user chose that folder.
    """
    return any(map(is_system_name, path.relative_to(root).parts))


def list_children(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without hidden and system ones."""
    return sorted(child for child in folder.iterdir() if not is_system_name(child.name))


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, sorted, without hidden and system ones."""
    for parent, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not is_system_name(name))
        yield from (Path(parent, name) for name in sorted(names) if not is_system_name(name))


class FileNameIndex:
    """Files of a folder and its subfolders by their names; the folder is read on first use.

    Args:
        folder: Folder to search.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, path: str) -> list[Path]:
        r"""Return the files with the name at the end of a path, whatever its folders, sorted.

        Args:
            path: Path that another program wrote, whose folders are separated by `/` or `\`.
        """
        if self._by_name is None:
            self._by_name = {}
            for file in walk_files(self._folder):
                self._by_name.setdefault(unicodedata.normalize("NFC", file.name), []).append(file)
        name = path.replace("\\", "/").rpartition("/")[2]
        return self._by_name.get(unicodedata.normalize("NFC", name), [])


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Find images by path, in folders (not recursively) and by pattern; see `find_files`.

    Raises:
        DataError: If a path does not exist or no image is found.
    """
    files, _ = find_files(paths, SUFFIXES)
    if not files:
        raise DataError(
            f"there is no image ({', '.join(sorted(SUFFIXES))}) {describe_search(paths)}"
            f"{describe_other_files(paths)}"
        )
    return files


def find_files(
    paths: Iterable[Path], endings: Collection[str], *, recursive: bool = False
) -> tuple[list[Path], int]:
    """Find files by path, in folders (sorted) and by pattern (`*`, `?`, `[`, `**`).

    Hidden and system files and folders are ignored in folders. They can be named by path.

    Args:
        paths: Paths of files with any suffix, folders, and patterns.
        endings: Suffixes of the requested files in folders, in lower case.
        recursive: Whether to search folders recursively.

    Returns:
        The files, each once, and the number of skipped files and folders in the folders.

    Raises:
        DataError: If a path does not exist, or a pattern matches no file.
    """
    files: list[Path] = []
    num_skipped = 0
    for path in (find_path(path) or path for path in paths):
        if path.is_dir():
            children = list(walk_files(path)) if recursive else list_children(path)
            matching = [child for child in children if child.suffix.lower() in endings]
            num_skipped += len(children) - len(matching)
            files += sorted(matching)
        elif path.exists():
            files.append(path)
        else:
            files += _expand_pattern(path)
    return list(dict.fromkeys(files)), num_skipped


def _expand_pattern(pattern: Path) -> list[Path]:
    """Return the files that match a pattern, sorted.

    Raises:
        DataError: If the text is a URL or not a pattern, or no file matches it.
    """
    text = str(pattern)
    if (message := describe_address(pattern)) is not None:
        raise DataError(message)
    if not glob.has_magic(text):
        raise DataError(f"{text} does not exist; pass files, patterns, or folders of files")
    files = [path for path in map(Path, glob.glob(text, recursive=True)) if not path.is_dir()]  # noqa: PTH207  # may be absolute
    if not files:
        raise DataError(f"no file matches the pattern {text}")
    return sorted(files)


def describe_search(paths: Iterable[Path]) -> str:
    """Describe the searched paths for a message."""
    return f"in {', '.join(map(str, paths)) or 'nothing'}"


def describe_other_files(paths: Iterable[Path], *, recursive: bool = False) -> str:
    """Describe the files of folders without images, with what to do; empty if unknown.

    Args:
        paths: Paths that were searched.
        recursive: Whether the folders were searched recursively.
    """
    folders = [path for path in paths if path.is_dir()]
    list_files = walk_files if recursive else list_children
    files = (file for folder in folders for file in list_files(folder))
    description = describe_foreign_files(files)
    return f"; {description}" if description else ""


def make_output_names(files: Sequence[Path]) -> list[str]:
    """Return one output name per file: its stem, with a number if the stem is already used.

    Names are at most `MAX_OUTPUT_NAME` bytes long; a longer stem is cut. A stem of dots only, as
    that of `...mp4`, would name another folder, so that the complete file name is used.
    """
    names: list[str] = []
    used_names: set[str] = set()
    numbers: dict[str, int] = {}  # next number per stem; thousands of files may share one
    for file in files:
        stem = _shorten_stem(file.stem if file.stem.strip(".") else file.name)
        name, number = stem, numbers.get(stem, 2)
        while name in used_names:
            name, number = _shorten_stem(stem, f"-{number}"), number + 1
        numbers[stem] = number
        used_names.add(name)
        names.append(name)
    return names


def _shorten_stem(stem: str, ending: str = "") -> str:
    """Return a stem with an ending, cut between its characters to at most `MAX_OUTPUT_NAME` bytes.

    File names that are not valid UTF-8 are measured as they are stored.
    """
    room = MAX_OUTPUT_NAME - len(ending)
    while len(os.fsencode(stem)) > room:
        # A character takes up to 4 bytes, so that a quarter of the excess can go at once.
        stem = stem[: -max(1, (len(os.fsencode(stem)) - room) // 4)]
    return stem + ending


def find_file(path: Path) -> Path | None:
    """Return a file, or the file whose path differs only in its Unicode form; see `find_path`."""
    existing_path = find_path(path)
    return existing_path if existing_path is not None and existing_path.is_file() else None


def find_path(path: Path) -> Path | None:
    """Return a file or folder whose path may differ in its Unicode form; None if it is absent.

    macOS stores some names in the form NFD, while lists and labels have the form NFC.
    """
    try:
        if str(path).isascii():  # it has only one form
            return path if path.exists() else None
        return _find_form(path)
    except (OSError, ValueError):  # the name is too long or contains a zero byte
        return None


def _find_form(path: Path) -> Path | None:
    if path.exists():
        return path
    if path == path.parent:
        return None
    parent = _find_form(path.parent)
    # An ASCII name has only one form.
    if parent is None or (path.name.isascii() and parent == path.parent):
        return None
    names = _list_normalized(parent, parent.stat().st_mtime_ns)
    name = names.get(unicodedata.normalize("NFC", path.name))
    return None if name is None else parent / name


@lru_cache(maxsize=32)
def _list_normalized(folder: Path, modified: int) -> dict[str, str]:  # noqa: ARG001  # of the cache
    return {unicodedata.normalize("NFC", name): name for name in os.listdir(folder)}  # noqa: PTH208
