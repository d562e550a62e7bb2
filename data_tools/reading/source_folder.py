"""Search for the expected parts of a source folder, with errors that list the actual content."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from resnet_tasks.data.images.find_images import is_system_name, list_children, walk_files
from resnet_tasks.errors import DataError
from resnet_tasks.files.text_encoding import detect_encoding

Sample = TypeVar("Sample")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
"""Other folder names of splits."""
SHOWN = 6
"""Number of names that an error message lists."""
MAX_DEPTH = 3
"""Levels of subfolders that are searched; archives often wrap a dataset in extra folders."""


def require_parts(source: Path, parts: Sequence[str]) -> None:
    """Check that a source folder contains all expected parts.

    Args:
        source: Path of the source folder.
        parts: Relative paths that must exist.

    Raises:
        DataError: If the source is not a folder or a part is missing. The message lists the missing
            parts and the content of the folder.
    """
    if not source.is_dir():
        requirement = f"; it should contain {', '.join(parts)}" if parts else ""
        raise DataError(
            f"the source {source} is not a folder{requirement}: download the dataset and pass the "
            "folder it was unpacked to"
        )
    missing = [part for part in parts if not (source / part).exists()]
    if missing:
        raise DataError(
            f"{source} should contain {', '.join(parts)}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; found {format_listing(source)}: pass "
            "the folder that contains them"
        )


def find_dataset_folder(source: Path, expects: Mapping[str, str], by_hand: str) -> Path:
    """Return the folder that contains all parts of a dataset: `source` or one of its subfolders.

    Args:
        source: Folder given by the user.
        expects: Relative path, which may contain `*` -> description of the expected content.
        by_hand: Instructions for obtaining the data, appended to the error message.

    Raises:
        DataError: If no folder within `MAX_DEPTH` levels contains all parts, or several do.
    """
    if not source.is_dir():
        require_parts(source, tuple(expects))
    level, nearest = [source], source
    for _ in range(MAX_DEPTH + 1):
        nearest = min((nearest, *level), key=lambda folder: len(_find_missing(folder, expects)))
        candidates = [folder for folder in level if not _find_missing(folder, expects)]
        if len(candidates) > 1:
            raise DataError(
                f"{candidates[0]} and {candidates[1]} both contain {', '.join(expects)}; pass the "
                "one to convert"
            )
        if candidates:
            return candidates[0]
        level = [child for folder in level for child in _list_folders(folder)]
    missing_text = "; ".join(
        f"{part} ({expects[part]})" for part in _find_missing(nearest, expects)
    )
    raise DataError(
        f"{source} should contain {', '.join(expects)}, but {nearest} lacks {missing_text}, and no "
        f"folder inside has more of them; {source} contains {format_listing(source)}. "
        f"{by_hand[:1].upper()}{by_hand[1:]}"
    )


def unwrap_folders(folder: Path) -> Iterator[Path]:
    """Yield nested folders while each is the only entry of its parent, to `MAX_DEPTH` levels."""
    for _ in range(MAX_DEPTH if folder.is_dir() else 0):
        children = list_children(folder)
        if len(children) != 1 or not children[0].is_dir():
            return
        folder = children[0]
        yield folder


def list_folders_by_name(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder by their names in lower case."""
    return {child.name.lower(): child for child in list_children(folder) if is_folder(child)}


def list_split_names(split: str) -> list[str]:
    """Return the names of a split in files and folders, the usual one first."""
    return [split, *(alias for alias, meaning in SPLIT_ALIASES.items() if meaning == split)]


def find_split_folder(folder: Path, split: str) -> Path | None:
    """Return the folder in a folder that is named after a split, in any case; None if absent.

    Raises:
        DataError: If two folders are named after the split.
    """
    names = list_split_names(split)
    children = (child for child in list_children(folder) if is_folder(child))
    matching = [child for child in children if child.name.lower() in names]
    if len(matching) > 1:
        raise DataError(
            f"{matching[0]} and {matching[1]} are both named after the split {split}; merge or "
            "rename them"
        )
    return matching[0] if matching else None


def find_split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder that are named after a split, by split.

    Raises:
        DataError: If two folders are named after the same split.
    """
    folders = {split: find_split_folder(folder, split) for split in SPLITS}
    return {split: child for split, child in folders.items() if child is not None}


def find_split_lists(folder: Path) -> dict[str, Path]:
    """Return those of `train.txt`, `val.txt` and `test.txt` that a folder contains, by split.

    Without one of them, a list with another name of its split counts, such as `valid.txt`.
    """
    lists: dict[str, Path] = {}
    for split in SPLITS:
        files = (folder / f"{name}.txt" for name in list_split_names(split))
        if file := next((file for file in files if file.is_file()), None):
            lists[split] = file
    return lists


def _find_missing(folder: Path, parts: Mapping[str, str]) -> list[str]:
    return [part for part in parts if next(folder.glob(part), None) is None]


def _list_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if entry.is_dir() and not is_system_name(entry.name)
            )
    except PermissionError:
        return []


def format_listing(folder: Path) -> str:
    """Return the first names in a folder, for an error message."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def format_first(names: Sequence[str]) -> str:
    """Return the first of some names and the number of the others, for an error message."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def read_lines(file: Path) -> list[str]:
    """Return the lines of a text file.

    Raises:
        DataError: If the file cannot be read or is neither UTF-8 text nor UTF-16 with a byte order
            mark.
    """
    try:
        content = file.read_bytes()
        text = content.decode(detect_encoding(content))
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(
            f"{file} cannot be read as UTF-8 text ({error}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{file} contains a zero byte, so it is not a text file; replace it")
    return text.splitlines()


def hold_out(samples: Sequence[Sample], val_indices: Collection[int]) -> dict[str, list[Sample]]:
    """Return `train` and `val`, which has the samples at the given indices."""
    return {
        "train": [sample for i, sample in enumerate(samples) if i not in val_indices],
        "val": [sample for i, sample in enumerate(samples) if i in val_indices],
    }


def hold_out_fraction(
    samples: Sequence[Sample], fraction: float, seed: int | str
) -> dict[str, list[Sample]]:
    """Return `train` and `val`, which has a random fraction of the samples.

    Of two samples or more, each split gets at least one; a single sample belongs to `train`.
    """
    count = min(max(round(len(samples) * fraction), 1), len(samples) - 1)
    return hold_out(samples, set(random.Random(seed).sample(range(len(samples)), max(count, 0))))


def make_absolute(path: Path) -> Path:
    """Return the absolute path without `..` and without following links."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links


def iterate_path_endings(root: Path, name: str) -> Iterator[Path]:
    """Yield the endings of a path inside a folder, from the whole path to the name alone.

    Published lists contain paths of the machine that they were created on.
    """
    parts = [part for part in PurePosixPath(name).parts if part.strip("/") not in ("", ".", "..")]
    return (root.joinpath(*parts[start:]) for start in range(len(parts)))


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long or contains a zero byte
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False for a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def list_unread_files(folder: Path) -> list[Path]:
    """List the files and folders in a folder that are not images, sorted by name.

    Raises:
        DataError: If there is a file other than those that operating systems create. It may be
            meant as an image, which would be lost silently.
    """
    unread = [file for file in sorted(folder.iterdir()) if not is_image(file) or not is_file(file)]
    for file in unread:
        if not is_system_name(file.name):
            raise DataError(
                f"{file} is not an image: {folder} must contain only image files "
                f"({', '.join(IMAGE_SUFFIXES)}); convert the file to one of these formats, or move "
                "it elsewhere"
            )
    return unread


def is_image(file: Path) -> bool:
    """Return whether a file has the suffix of an image and is not hidden."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not is_system_name(file.name)


def count_unused(folder: Path, used: Collection[Path]) -> int:
    """Return the number of images in a folder and its subfolders that are not among the used ones.

    Args:
        folder: Folder to search.
        used: Paths of the used images.
    """
    used_paths = {os.path.abspath(path) for path in used}  # noqa: PTH100 - links are kept
    return sum(
        is_image(file) and os.path.abspath(file) not in used_paths  # noqa: PTH100
        for file in walk_files(folder)
    )
