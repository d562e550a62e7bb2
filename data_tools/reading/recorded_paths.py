"""Paths in published files, which often name folders of the machine that they were written on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from data_tools.reading.source_folder import (
    SPLIT_ALIASES,
    format_listing,
    iterate_path_endings,
    make_absolute,
)
from resnet_tasks.data.images.find_images import find_path
from resnet_tasks.errors import DataError
from resnet_tasks.number_formats import Count

_SPLIT_FOLDER = re.compile(r"(train(ing)?|val(id(ation)?)?|test(ing)?)[0-9]*", re.IGNORECASE)


class RecordedPaths:
    """Search for recorded paths inside a folder, with a report of those that were shortened.

    Leading folders of a path are dropped until the path exists. The name of a split is never
    dropped: `train/images` and `images` may be different data.

    Args:
        root: Folder that contains all files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shortened: dict[str, list[tuple[str, Path]]] = {}

    def exists(self, name: str, prefix: str = "") -> bool:
        """Return whether an ending of a recorded path exists that has the name of its split."""
        return self._search(name, prefix)[0] is not None

    def find(self, name: str, location: str, split: str, prefix: str = "") -> Path:
        """Return the file or folder that a recorded path means.

        Args:
            name: Recorded path.
            location: File that records the path, for messages.
            split: Split of the path, for the report.
            prefix: Recorded parent folder, which may be dropped without a report.

        Raises:
            DataError: If no ending of the path exists, or only one without the name of its split.
        """
        path, other_path = self._search(name, prefix)
        if path is not None:
            is_shorter = len(path.relative_to(self.root).parts) < len(_list_parts(name))
            if is_shorter and make_absolute(self.root / name) != make_absolute(path):
                self._shortened.setdefault(split, []).append((name, path))
            return path
        if other_path is not None:
            raise self._report_missing_split(name, location, other_path, split)
        raise DataError(
            f"{location} names {name!r}, but {self.root} has nothing under any ending of that "
            f"path; found {format_listing(self.root)}: fix the path, or remove it if there is no "
            "such part"
        )

    def choose(self, name: str, candidates: Sequence[Path], location: str, split: str) -> Path:
        """Return the file that a recorded path means, among files of the same name.

        Both may have folders that the other lacks. The file with the longest common ending is used.

        Args:
            name: Recorded path, which may lack the suffix of the file.
            candidates: Files inside the root whose names match, at least one.
            location: File that records the path, for messages.
            split: Split of the path, for the report.

        Raises:
            DataError: If several files match equally well, or only one without the name of the
                split in the recorded path.
        """
        *folders, file_name = _list_parts(name.replace("\\", "/"))
        matches = []
        for path in candidates:
            parents = make_absolute(path).relative_to(make_absolute(self.root)).parts[:-1]
            num_common = _count_common_ending(folders, parents)
            matches.append(((num_common, path.name == file_name), parents, path))
        best = max(rank for rank, *_ in matches)
        (parents, path), *others = [match[1:] for match in matches if match[0] == best]
        if others:
            raise DataError(
                f"{location} names {name!r}, which may be {path} or {others[0][1]}; keep one of "
                "them"
            )
        dropped = folders[: len(folders) - best[0]]
        splits = {_parse_split(part) for part in dropped} - {None}
        if splits - {_parse_split(part) for part in parents}:
            raise self._report_missing_split(name, location, path, split)
        if dropped:
            self._shortened.setdefault(split, []).append((name, path))
        return path

    def _report_missing_split(self, name: str, location: str, path: Path, split: str) -> DataError:
        return DataError(
            f"{location} names {name!r}, but {self.root} has no such path; {path} exists, but its "
            "path lacks the name of the split, so it may be other data: write "
            f"{path.relative_to(self.root).as_posix()!r} if it is the {split} split, otherwise add "
            "the missing folder"
        )

    def _search(self, name: str, prefix: str) -> tuple[Path | None, Path | None]:
        """Return the longest ending that exists, as first value if it has the name of the split."""
        parts = _list_parts(name)
        if not parts and not prefix:
            return self.root, None
        for ending in iterate_path_endings(self.root, f"{prefix}/{name}"):
            if (path := find_path(ending)) is not None:
                num_dropped = max(len(parts) - len(path.relative_to(self.root).parts), 0)
                has_split = not _has_split(parts) or _has_split(parts[num_dropped:])
                return (path, None) if has_split else (None, path)
        return None, None

    def describe_shortened(self, split: str) -> list[str]:
        """Return a sentence on the paths of a split that were shortened; empty if none were."""
        shortened = self._shortened.get(split, [])
        if not shortened:
            return []
        name, path = shortened[0]
        found_name = path.relative_to(self.root).as_posix()
        sentence = (
            f"{Count(len(shortened)):recorded path is} not in {self.root}; the end of "
            f"the path is used: {name!r} is read as {found_name!r}"
        )
        return [sentence]


def are_same_path(first: str, second: str) -> bool:
    """Return whether two recorded paths may name the same file, one with fewer folders."""
    parts, other_parts = (_list_parts(name.replace("\\", "/"))[:-1] for name in (first, second))
    return _count_common_ending(parts, other_parts) == min(len(parts), len(other_parts))


def _list_parts(name: str) -> list[str]:
    parts = PurePosixPath(name).parts
    return [part for part in parts if part.strip("/") not in ("", ".", "..")]


def _count_common_ending(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _parse_split(part: str) -> str | None:
    """Return the split that a folder is named after; None if it is named otherwise."""
    if not _SPLIT_FOLDER.fullmatch(part):
        return None
    name = part.lower().rstrip("0123456789")
    return SPLIT_ALIASES.get(name, name)


def _has_split(parts: Sequence[str]) -> bool:
    return any(_SPLIT_FOLDER.fullmatch(part) for part in parts)
