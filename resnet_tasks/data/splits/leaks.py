"""Leaks between splits: groups and images that are in both."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from resnet_tasks.data.coco.json_records import ImageName, ImageNames, decode_file
from resnet_tasks.errors import format_list
from resnet_tasks.number_formats import Count


class HasFileName(Protocol):
    """Protocol of an image record, limited to the fields that identify the image and its group."""

    @property
    def file_name(self) -> str:
        """Path relative to the images root."""
        ...

    @property
    def group(self) -> str | None:
        """Patient, study or sequence."""
        ...


class ImageCollection(Protocol):
    """Protocol of a COCO file that is parsed, checked, or read without its annotations."""

    @property
    def images_root(self) -> Path:
        """Folder of the images."""
        ...

    @property
    def images(self) -> Sequence[HasFileName]:
        """Image records in file order."""
        ...


@dataclass(frozen=True)
class ImageList:
    """Images of a COCO file that is read without its annotations.

    Attributes:
        images_root: Folder of the images.
        images: File name and group of every image, in file order.
    """

    images_root: Path
    images: Sequence[ImageName]


def read_image_names(path: Path, images_root: Path | None = None) -> ImageList | None:
    """Read the file names and groups of the images of a COCO file without parsing annotations.

    Args:
        path: Path of the JSON file.
        images_root: Folder of the images; see `read_coco`.

    Returns:
        List of images, or None if the file does not exist or has unexpected content.
    """
    content = decode_file(path, ImageNames)
    if content is None:
        return None
    info = content.info if isinstance(content.info, dict) else {}
    return ImageList(
        images_root or path.parent / str(info.get("images_root") or ""), content.images
    )


@dataclass(frozen=True)
class Leak:
    """Groups and images that two splits share.

    Attributes:
        groups: Shared group -> number of its images in the first and in the second split.
        images: Paths of the shared image files.
    """

    groups: Mapping[str, tuple[int, int]]
    images: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.groups or self.images)

    def describe(self, first: str, second: str) -> str:
        """Describe the shared groups and images with counts and the first names.

        Args:
            first: Name of the first split.
            second: Name of the second split.
        """
        parts = []
        if self.groups:
            examples = format_list(
                f"{group!r} ({a} in {first}, {b} in {second})"
                for group, (a, b) in self.groups.items()
            )
            parts.append(f"{Count(len(self.groups)):group}: {examples}")
        if self.images:
            parts.append(f"{Count(len(self.images)):image}: {format_list(self.images)}")
        return "; ".join(parts)


def find_leak(first: Sequence[ImageCollection], second: Sequence[ImageCollection]) -> Leak:
    """Return the groups and image files in both splits, in the order of the second split."""
    ours, theirs = count_groups(first), count_groups(second)
    groups = {group: (ours[group], theirs[group]) for group in theirs if group in ours}
    first_paths = {path for file in first for path in resolve_image_paths(file)}
    shared = (path for file in second for path in resolve_image_paths(file) if path in first_paths)
    return Leak(groups, tuple(dict.fromkeys(shared)))


def count_groups(files: Iterable[ImageCollection]) -> Counter[str]:
    """Return the number of images of each group in file order, ignoring images without a group."""
    return Counter(
        record.group for file in files for record in file.images if record.group is not None
    )


def resolve_image_paths(file: ImageCollection) -> list[str]:
    """Return the path of each image, normalized so that equal files have equal paths."""
    # Only the folder is resolved, because resolving the links of every image would take minutes.
    root = os.path.realpath(file.images_root)
    return [
        os.path.normpath(os.path.join(root, record.file_name))  # noqa: PTH118 - fast
        for record in file.images
    ]
