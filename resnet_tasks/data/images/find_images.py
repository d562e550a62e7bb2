"""Search for image files by path, folder and pattern, and generation of unique output names."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from resnet_tasks.data.images.image_files import SUFFIXES
from resnet_tasks.errors import DataError


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Find images by path, in folders (not recursively) and by pattern; see `find_files`.

    Raises:
        DataError: If a path does not exist or no image is found.
    """
    files, _ = find_files(paths, SUFFIXES)
    if not files:
        raise DataError(
            f"there is no image ({', '.join(sorted(SUFFIXES))}) {describe_search(paths)}"
        )
    return files


def find_files(
    paths: Iterable[Path], endings: Collection[str], *, recursive: bool = False
) -> tuple[list[Path], int]:
    """Find files by path, in folders (sorted) and by pattern (`*`, `?`, `[`, `**`).

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
    for path in paths:
        if path.is_dir():
            entries = path.rglob("*") if recursive else path.iterdir()
            children = [child for child in entries if not (recursive and child.is_dir())]
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
        DataError: If the text is not a pattern, or no file matches it.
    """
    text = str(pattern)
    if not glob.has_magic(text):
        raise DataError(f"{text} does not exist; name files, patterns, or folders of files")
    files = [path for path in map(Path, glob.glob(text, recursive=True)) if not path.is_dir()]  # noqa: PTH207  # may be absolute
    if not files:
        raise DataError(f"no file matches the pattern {text}")
    return sorted(files)


def describe_search(paths: Iterable[Path]) -> str:
    """Describe the searched paths for a message."""
    return f"in {', '.join(map(str, paths)) or 'nothing'}"


def make_output_names(files: Sequence[Path]) -> list[str]:
    """Return one output name per file: its stem, with a number if the stem is already used."""
    names: list[str] = []
    used_names: set[str] = set()
    numbers: dict[str, int] = {}  # next number per stem; thousands of files may share one
    for file in files:
        name, number = file.stem, numbers.get(file.stem, 2)
        while name in used_names:
            name, number = f"{file.stem}-{number}", number + 1
        numbers[file.stem] = number
        used_names.add(name)
        names.append(name)
    return names
