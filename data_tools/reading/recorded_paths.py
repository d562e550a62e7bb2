"""Paths in published files, which often name folders of the machine that they were written on."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_tools.reading.source_folder import (
    format_listing,
    is_file,
    is_folder,
    iterate_path_endings,
)
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
        parts = [
            part for part in PurePosixPath(name).parts if part.strip("/") not in ("", ".", "..")
        ]
        dropped_split = None
        for candidate in iterate_path_endings(self.root, f"{prefix}/{name}"):
            if not (is_file(candidate) or is_folder(candidate)):
                continue
            num_kept = len(candidate.relative_to(self.root).parts)
            dropped = parts[: max(len(parts) - num_kept, 0)]
            if parts and _count_splits(parts) and not _count_splits(parts[len(dropped) :]):
                dropped_split = candidate
                break
            if dropped:
                self._shortened.setdefault(split, []).append((name, candidate))
            return candidate
        if dropped_split is not None:
            raise DataError(
                f"{location} names {name!r}, but {self.root} has no such path; {dropped_split} "
                "exists, but its path lacks the name of the split, so it may be other data: write "
                f"{dropped_split.relative_to(self.root).as_posix()!r} if it is the {split} split, "
                "otherwise add the missing folder"
            )
        raise DataError(
            f"{location} names {name!r}, but {self.root} has nothing under any ending of that "
            f"path; found {format_listing(self.root)}: fix the path, or remove it if there is no "
            "such part"
        )

    def describe_shortened(self, split: str) -> list[str]:
        """Return a sentence on the paths of a split that were shortened; empty if none were."""
        shortened = self._shortened.get(split, [])
        if not shortened:
            return []
        name, path = shortened[0]
        found_name = path.relative_to(self.root).as_posix()
        sentence = (
            f"{Count(len(shortened)):recorded path is} not in {self.root}, so its last "
            f"part is used: {name!r} is read as {found_name!r}"
        )
        return [sentence]


def _count_splits(parts: list[str]) -> int:
    return sum(_SPLIT_FOLDER.fullmatch(part) is not None for part in parts)
