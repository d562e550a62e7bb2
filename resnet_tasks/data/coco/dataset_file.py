"""Parsed COCO file: images, annotations and file paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.box_formats import count_box_formats
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.packed.annotation_packer import pack_annotations
from resnet_tasks.data.coco.packed.annotations import PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import Problem
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.images.find_images import find_file
from resnet_tasks.data.images.image_files import DAMAGE
from resnet_tasks.data.images.lossy_formats import find_lossy_format
from resnet_tasks.errors import DataError, limit_path
from resnet_tasks.files.foreign_files import find_address


@dataclass
class CocoFile:
    """Parsed COCO file.

    Attributes:
        path: Path of the JSON file.
        images_root: Folder that the file names of the images are relative to.
        categories: Mapping between category ids and indices.
        images: Image records in file order. Any other sequence of records is packed on
            construction.
        annotations: Image id -> annotations in file order, with an entry for every image. Any other
            mapping is packed on construction.
        annotated: Kinds of annotations that the file contains, a subset of `ANNOTATED`.
        problems: All repairs, skipped entries and notes.
        info: The file's `info` object.
        note: Remark on reading for the log (duration, packed form), or an empty string.
    """

    path: Path
    images_root: Path
    categories: CategoryMap
    images: PackedImages
    annotations: PackedAnnotations
    annotated: frozenset[str]
    problems: tuple[Problem, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        self.images = _pack_images(self.images)
        self.annotations = pack_annotations(self.annotations, self.images)

    @property
    def sem_seg_root(self) -> Path:
        """Folder of the semantic maps: `info.sem_seg_root`, else the folder of the JSON file."""
        return self.path.parent / str(self.info.get("sem_seg_root", ""))

    def image_path(self, record: ImageRecord) -> Path:
        """Return the path of an image, whose name may have another Unicode form on disk."""
        return self._locate(record.file_name)

    def _locate(self, name: str) -> Path:
        path = self.images_root / name
        return path if name.isascii() else find_file(path) or path

    def sem_seg_path(self, record: ImageRecord) -> Path | None:
        """Return the path of the semantic label map of an image, or None if it has no map."""
        name = record.sem_seg_file_name
        return None if name is None else self.sem_seg_root / name

    def count_problems(self) -> dict[str, int]:
        """Return the number of problems of each kind, most frequent first."""
        return count_by_kind(self.problems)

    def reindex(self, categories: CategoryMap) -> CocoFile:
        """Return the same file with the labels of its objects as indices into another category map.

        Raises:
            DataError: If a category of the file is not in `categories`.
        """
        if self.categories.ids == categories.ids:
            return self
        table = [categories.id_to_index(category_id) for category_id in self.categories.ids]
        annotations = self.annotations.remap_categories(table)
        return replace(self, categories=categories, annotations=annotations)

    def select_images(self, images: Sequence[ImageRecord]) -> CocoFile:
        """Return the same file with a subset of its images and their annotations."""
        selected = PackedImages.from_records(images)
        annotations = {record.id: self.annotations[record.id] for record in images}
        packed = pack_annotations(annotations, selected)
        return replace(self, images=selected, annotations=packed)

    def count_objects(self) -> NDArray[np.int64]:
        """Return the `(K,)` number of annotations of each category, without crowds."""
        return self.annotations.count_objects(len(self.categories))

    def find_missing_files(self) -> tuple[Path, ...]:
        """Return the paths of the images and semantic maps that do not exist."""
        paths = dict.fromkeys(self._iter_files())
        missing = {path for path in paths if not os.path.isfile(path)}  # noqa: PTH113 - fast
        return tuple(path for path in self._iter_files() if path in missing)

    def require_files(self) -> None:
        """Check that all images and semantic maps exist.

        Raises:
            DataError: If files are missing. The message has their number and the first path.
        """
        missing = self.find_missing_files()
        if missing:
            total = sum(1 for _ in self._iter_files())
            address = find_address(missing[0])
            raise DataError(
                f"{self.path}: {len(missing)} of {total} listed files are missing, the first is "
                f"{limit_path(address or missing[0])}; {self._describe_remedy(missing[0])}"
            )

    def _describe_remedy(self, missing: Path) -> str:
        if find_address(missing) is not None:
            return "URLs are not downloaded: download the images and list their file names"
        if exists_with_slashes(missing):
            return f"`resnet-tasks data check {self.path} --fix COPY` replaces backslashes by /"
        return "set the image folder with `images:` next to `annotations:`"

    def require_lossless_maps(self, allowed: int = 0) -> None:
        """Check that semantic maps are stored in formats that keep their values, by their headers.

        Files that are missing or damaged are ignored.

        Args:
            allowed: Maximum number of lossy maps, whose images are skipped.

        Raises:
            DataError: If more maps are lossy. The message has their number and the first path.
        """
        lossy = []
        paths = dict.fromkeys(self._list_maps())
        for path in paths:
            with suppress(*DAMAGE):
                if (lossy_format := find_lossy_format(path)) is not None:
                    lossy.append((path, lossy_format))
        if len(lossy) > allowed:
            path, lossy_format = lossy[0]
            raise DataError(
                f"{self.path}: {len(lossy)} of {len(paths)} label maps are lossy; label map {path} "
                f"is stored as {lossy_format}, which changes pixel values; export it again from "
                "the original annotation as PNG"
            )

    def require_pixel_boxes(self) -> list[str]:
        """Check that boxes are in pixels.

        Returns:
            A note if the boxes look like corners.

        Raises:
            DataError: If most boxes are fractions of the image size.
        """
        has_box = self.annotations.has_box
        sizes = self.images.sizes[self.annotations.image_positions[has_box]]
        counts = count_box_formats(self.annotations.boxes[has_box], sizes)
        if counts.are_mostly_relative:
            raise DataError(
                f"{self.path}: {counts.describe_relative()}; boxes must be [x, y, width, height] "
                "in pixels: if they are fractions of the image size, `resnet-tasks data check "
                f"{self.path} --fix COPY --convert relative_boxes` converts them"
            )
        if not counts.are_corners:
            return []
        note = (
            f"{self.path}: {counts.describe_corners()}; if they are [x1, y1, x2, y2], "
            f"`resnet-tasks data check {self.path} --fix COPY --convert corner_boxes` converts them"
        )
        return [note]

    def iter_images(self) -> Iterator[tuple[str, Path]]:
        """Yield the file name and the path of each image, in file order."""
        for position in range(len(self.images)):
            name = self.images.get_file_name(position)
            yield name, self._locate(name)

    def iter_label_maps(self) -> Iterator[tuple[str, Path]]:
        """Yield the file name and the path of each semantic map, in file order."""
        for _, optional_fields in self.images.iter_optional_fields():
            if "semantic" in optional_fields:
                yield optional_fields["semantic"], self.sem_seg_root / optional_fields["semantic"]

    def _iter_files(self) -> Iterator[Path]:
        """Yield the paths of all images, then of all semantic maps."""
        yield from (path for _, path in self.iter_images())
        yield from self._list_maps()

    def _list_maps(self) -> list[Path]:
        return [path for _, path in self.iter_label_maps()]


def _pack_images(images: Sequence[ImageRecord]) -> PackedImages:
    return images if isinstance(images, PackedImages) else PackedImages.from_records(images)


def count_by_kind(problems: Iterable[Problem]) -> dict[str, int]:
    """Return the number of problems of each kind, most frequent first."""
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def exists_with_slashes(path: Path) -> bool:
    r"""Return whether a missing file exists if `\` separates folders, as on Windows."""
    return "\\" in str(path) and find_file(Path(str(path).replace("\\", "/"))) is not None
