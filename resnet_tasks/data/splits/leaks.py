"""What leaks from one split into another: groups and images that are in both."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from resnet_tasks.data.coco.problems import MAX_LISTED


class HasFileName(Protocol):
    """An image record, or as much of it as tells images apart."""

    @property
    def file_name(self) -> str:
        """Relative to the images root."""
        ...

    @property
    def group(self) -> str | None:
        """Patient, study or sequence."""
        ...


class ImageCollection(Protocol):
    """A COCO file: parsed, checked, or only its images."""

    @property
    def images_root(self) -> Path:
        """Folder of the images."""
        ...

    @property
    def images(self) -> Sequence[HasFileName]:
        """In file order."""
        ...


class _RawImage(msgspec.Struct, gc=False):
    file_name: str
    group: str | int | float | None = None


class _RawFile(msgspec.Struct):
    images: list[_RawImage]
    info: Any = None


@dataclass(frozen=True)
class ImageList:
    """The images of a COCO file, its annotations not looked at."""

    images_root: Path
    images: tuple[_ImageName, ...]


class _ImageName(NamedTuple):
    file_name: str
    group: str | None


def read_image_names(path: Path, images_root: Path | None = None) -> ImageList | None:
    """The names and groups of a COCO file's images; annotations are skipped, not parsed.

    Args:
        path: The JSON.
        images_root: As in `read_coco`.

    Returns:
        None where the file is not there or cannot be read in this way.
    """
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=_RawFile)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    info = raw.info if isinstance(raw.info, dict) else {}
    root = images_root or path.parent / str(info.get("images_root") or "")
    names = (
        _ImageName(image.file_name, None if image.group is None else str(image.group))
        for image in raw.images
    )
    return ImageList(root, tuple(names))


@dataclass(frozen=True)
class Leak:
    """What two splits share.

    Attributes:
        groups: Group -> its images in the first and in the second split, where it is in both.
        images: Files that are in both.
    """

    groups: Mapping[str, tuple[int, int]]
    images: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.groups or self.images)

    def describe(self, first: str, second: str) -> str:
        """What is shared, with counts and the first names; `first` and `second` name the splits."""
        parts = []
        if self.groups:
            examples = [
                f"{group!r} ({a} in {first}, {b} in {second})"
                for group, (a, b) in list(self.groups.items())[:MAX_LISTED]
            ]
            more = ", ..." if len(self.groups) > MAX_LISTED else ""
            parts.append(f"{len(self.groups)} group(s): {', '.join(examples)}{more}")
        if self.images:
            more = ", ..." if len(self.images) > MAX_LISTED else ""
            examples = list(self.images[:MAX_LISTED])
            parts.append(f"{len(self.images)} image(s): {', '.join(examples)}{more}")
        return "; ".join(parts)


def find_leak(first: Sequence[ImageCollection], second: Sequence[ImageCollection]) -> Leak:
    """Groups and image files that occur in both splits, in the order of the second."""
    ours, theirs = count_groups(first), count_groups(second)
    groups = {group: (ours[group], theirs[group]) for group in theirs if group in ours}
    first_paths = {path for file in first for path in resolve_image_paths(file)}
    shared = (path for file in second for path in resolve_image_paths(file) if path in first_paths)
    return Leak(groups, tuple(dict.fromkeys(shared)))


def count_groups(files: Iterable[ImageCollection]) -> Counter[str]:
    """Images by group, in the order of the files; images without a group are not counted."""
    return Counter(
        record.group for file in files for record in file.images if record.group is not None
    )


def resolve_image_paths(file: ImageCollection) -> list[str]:
    """Where each image of a file lies, so that the same file has the same name everywhere."""
    # The folder is resolved once: following the links of each image would take minutes.
    root = os.path.realpath(file.images_root)
    return [
        os.path.normpath(os.path.join(root, record.file_name))  # noqa: PTH118 - fast
        for record in file.images
    ]
