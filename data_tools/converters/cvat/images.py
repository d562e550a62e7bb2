"""Images and video frames of a CVAT export, and the files that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_tools.reading.source_folder import IMAGE_SUFFIXES, format_listing, is_file
from data_tools.shapes.labeled_objects import LabeledObject
from resnet_tasks.data.images.find_images import is_system_path
from resnet_tasks.errors import DataError

ANNOTATIONS_FILE = "annotations.xml"
"""Name of the XML in the folder of the export."""


@dataclass
class CvatImage:
    """One image or frame.

    Attributes:
        name: Name in the XML; number of a video frame.
        split: Split of the subset that contains the image.
        subset: Name of the subset in the XML, which is the folder of the image in exports of
            projects.
        size: (height, width) stated in the XML.
        group: Video that contains the frame; None for single images.
        objects: Objects drawn on the image.
        skipped: (object, reason) of the shapes that are not converted.
        invalid: (object, error) of the shapes that are invalid.
    """

    name: str
    split: str
    size: tuple[int, int]
    group: str | None = None
    objects: list[LabeledObject] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    invalid: list[tuple[str, DataError]] = field(default_factory=list)
    subset: str = ""


class CvatImageFinder:
    """Finder of image files by the names in the XML.

    Args:
        source: Folder of the export.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._xml = source / ANNOTATIONS_FILE
        self._frames: dict[int, Path] | None = None

    def find(self, image: CvatImage) -> Path:
        """Return the file of an image or frame.

        Raises:
            DataError: If the file is missing, its name leads out of the folder, or several files
                have its name.
        """
        if image.group is not None:
            return self._find_frame(int(image.name))
        name = image.name.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(
                f"{self._xml} names the image {image.name!r}, which leads out of the "
                "folder; fix the name"
            )
        subset_paths = [self._source / "images" / subset / name for subset in (image.subset, "")]
        image_path = next(filter(is_file, (*subset_paths, self._source / name)), None)
        if image_path is not None:
            return image_path
        images = self._source / "images"
        other_paths = [
            path
            for path in sorted(images.glob(f"*/{_escape_glob(name)}"))
            if not is_system_path(path, images)
        ]
        if len(other_paths) > 1:
            raise DataError(
                f"{self._xml} names the image {name}, which may be {other_paths[0]} or "
                f"{other_paths[1]}; keep one of them, or put both into folders named by subset"
            )
        if not other_paths:
            raise DataError(
                f"{self._xml} names the image {name}, but neither images/ nor the "
                f"folder has it; found {format_listing(self._source)}: export with images, or add "
                "them"
            )
        return other_paths[0]

    def _find_frame(self, number: int) -> Path:
        if self._frames is None:
            self._frames = dict(_list_frames(self._source / "images"))
        if number not in self._frames:
            raise DataError(
                f"{self._source / 'images'} has no frame_{number:06d} with any of "
                f"{', '.join(IMAGE_SUFFIXES)}; export the video's frames with the annotations"
            )
        return self._frames[number]


def _escape_glob(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _list_frames(folder: Path) -> Iterator[tuple[int, Path]]:
    for file in sorted(folder.glob("frame_*")):
        number = file.stem.removeprefix("frame_")
        if file.suffix.lower() in IMAGE_SUFFIXES and number.isdecimal():
            yield int(number), file
