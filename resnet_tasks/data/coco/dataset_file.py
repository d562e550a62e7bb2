"""A parsed COCO file: images, annotations, and where the files lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.packed.annotation_packer import pack_annotations
from resnet_tasks.data.coco.packed.annotations import PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import Problem, count_by_kind
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.errors import DataError


@dataclass
class CocoFile:
    """A parsed COCO file.

    Attributes:
        path: The JSON.
        images_root: Folder that the images' names are relative to.
        categories: Ids to indices.
        images: In file order. Given as any sequence of records, they are packed.
        annotations: By image id, in file order; every image has an entry. Given as any mapping,
            they are packed.
        annotated: What the file annotates, of `ANNOTATED`.
        problems: All repairs, omissions and notes.
        info: The file's `info`.
        note: How it was read, where that is worth telling: a big file took its time, or came from
            what an earlier reading kept.
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
        """Folder that semantic label maps are relative to: `info.sem_seg_root`, else the JSON's."""
        return self.path.parent / str(self.info.get("sem_seg_root", ""))

    def image_path(self, record: ImageRecord) -> Path:
        """File of an image."""
        return self.images_root / record.file_name

    def sem_seg_path(self, record: ImageRecord) -> Path | None:
        """Semantic label map of an image; None where it has none."""
        name = record.sem_seg_file_name
        return None if name is None else self.sem_seg_root / name

    def count_problems(self) -> dict[str, int]:
        """Number of problems by kind, most frequent first."""
        return count_by_kind(self.problems)

    def reindex(self, categories: CategoryMap) -> CocoFile:
        """The same file with its objects as indices into another category list.

        Raises:
            DataError: If a category is not in that list.
        """
        if self.categories.ids == categories.ids:
            return self
        table = [categories.id_to_index(category_id) for category_id in self.categories.ids]
        annotations = self.annotations.remap_categories(table)
        return replace(self, categories=categories, annotations=annotations)

    def select_images(self, images: Sequence[ImageRecord]) -> CocoFile:
        """The same file with some of its images and what is annotated on them."""
        selected = PackedImages.from_records(images)
        annotations = {record.id: self.annotations[record.id] for record in images}
        packed = pack_annotations(annotations, selected)
        return replace(self, images=selected, annotations=packed)

    def count_objects(self) -> NDArray[np.int64]:
        """`(K,)` annotations of each category, crowds left out."""
        return self.annotations.count_objects(len(self.categories))

    def iter_files(self) -> Iterator[Path]:
        """Images, then semantic maps, that the file names."""
        names = map(self.images.get_file_name, range(len(self.images)))
        yield from (self.images_root / name for name in names)
        for optional_fields in self.images.iter_optional_fields():
            if (name := optional_fields.get("semantic")) is not None:
                yield self.sem_seg_root / name

    def find_missing_files(self) -> tuple[Path, ...]:
        """Images and semantic maps that the file names and that are not there."""
        exists: dict[Path, bool] = {}
        for path in self.iter_files():
            if path not in exists:
                exists[path] = os.path.isfile(path)  # noqa: PTH113 - fast
        return tuple(path for path in self.iter_files() if not exists[path])

    def require_files(self) -> None:
        """Does nothing where every named file is there.

        Raises:
            DataError: With the number of missing files and the first of them.
        """
        missing = self.find_missing_files()
        if missing:
            raise DataError(_format_missing_files(self, missing))


def _format_missing_files(coco: CocoFile, missing: Sequence[Path]) -> str:
    total = sum(1 for _ in coco.iter_files())
    return (
        f"{coco.path}: {len(missing)} of {total} named files are not there, the first is "
        f"{missing[0]}; name the folder of the images with `images:` beside `annotations:`"
    )


def _pack_images(images: Sequence[ImageRecord]) -> PackedImages:
    return images if isinstance(images, PackedImages) else PackedImages.from_records(images)
