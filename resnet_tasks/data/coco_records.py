"""A parsed COCO file: pictures, annotations, and where the files lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_problems import Id, Problem, summary
from resnet_tasks.errors import DataError

Xywh = tuple[float, float, float, float]


@dataclass(frozen=True)
class ImageRecord:
    """One picture of a COCO file.

    Attributes:
        id: As in the file.
        file_name: Relative to the file's images root, inside it.
        height: Pixels of the upright picture.
        width: Pixels of the upright picture.
        sem_seg_file_name: Semantic label map, relative to the file's semantic root.
        group: Patient, study or sequence; splits never cut through a group.
        spacing: (y, x) millimetres per pixel.
        extra: The record's other fields, COCO's own bookkeeping left out.
    """

    id: Id
    file_name: str
    height: int
    width: int
    sem_seg_file_name: str | None = None
    group: str | None = None
    spacing: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object, or one image-level label, of a picture.

    Attributes:
        id: As in the file, or a new one where the file's is missing or not unique.
        image_id: Id of its picture.
        category: Index into the file's `CategoryMap`.
        bbox: (x, y, width, height) exactly as in the file, pixels, width and height above 0; None
            for image-level labels.
        area: Pixels² as in the file (of the mask where there is one), or computed.
        is_crowd: A region of many objects: neither positive nor negative.
        segmentation: What `decode_mask` takes: polygons (packed as `array("d")`) or run lengths.
        occluded: KITTI's degree: 0 visible, 1 partly, 2 largely occluded, 3 unknown.
        truncated: Share 0..1 that lies outside the picture.
    """

    id: Id
    image_id: Id
    category: int
    bbox: Xywh | None
    area: float
    is_crowd: bool = False
    segmentation: list[Any] | dict[str, Any] | None = None
    occluded: float | None = None
    truncated: float | None = None


@dataclass
class CocoFile:
    """A parsed COCO file.

    Attributes:
        path: The JSON.
        images_root: Folder that the pictures' names are relative to.
        categories: Ids to indices.
        images: In file order.
        annotations: By image id, in file order; every image has an entry.
        annotated: What the file annotates, of `ANNOTATED`.
        problems: All repairs, omissions and notes.
        info: The file's `info`.
    """

    path: Path
    images_root: Path
    categories: CategoryMap
    images: tuple[ImageRecord, ...]
    annotations: dict[Id, tuple[Annotation, ...]]
    annotated: frozenset[str]
    problems: tuple[Problem, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def sem_seg_root(self) -> Path:
        """Folder that semantic label maps are relative to: `info.sem_seg_root`, else the JSON's."""
        return self.path.parent / str(self.info.get("sem_seg_root", ""))

    def image_path(self, record: ImageRecord) -> Path:
        """File of a picture."""
        return self.images_root / record.file_name

    def sem_seg_path(self, record: ImageRecord) -> Path | None:
        """Semantic label map of a picture; None where it has none."""
        name = record.sem_seg_file_name
        return None if name is None else self.sem_seg_root / name

    def summary(self) -> dict[str, int]:
        """Number of problems by kind, most frequent first."""
        return summary(self.problems)

    def reindexed(self, categories: CategoryMap) -> CocoFile:
        """The same file with its objects as indices into another category list.

        Raises:
            DataError: If a category is not in that list.
        """
        if self.categories.ids == categories.ids:
            return self
        table = [categories.index_of(category_id) for category_id in self.categories.ids]
        annotations = {
            image_id: tuple(replace(each, category=table[each.category]) for each in present)
            for image_id, present in self.annotations.items()
        }
        return replace(self, categories=categories, annotations=annotations)

    def of_images(self, images: Sequence[ImageRecord]) -> CocoFile:
        """The same file with some of its pictures and what is annotated on them."""
        annotations = {each.id: self.annotations[each.id] for each in images}
        return replace(self, images=tuple(images), annotations=annotations)

    def missing_files(self) -> tuple[Path, ...]:
        """Pictures and semantic maps that the file names and that are not there."""
        named: list[Path] = [self.image_path(record) for record in self.images]
        named += [path for record in self.images if (path := self.sem_seg_path(record)) is not None]
        return tuple(path for path in named if not os.path.isfile(path))  # noqa: PTH113 - fast

    def require_files(self) -> None:
        """Does nothing where every named file is there.

        Raises:
            DataError: With the number of missing files and the first of them.
        """
        missing = self.missing_files()
        if missing:
            raise DataError(_missing_message(self, missing))


def _missing_message(coco: CocoFile, missing: Sequence[Path]) -> str:
    total = sum(1 + (record.sem_seg_file_name is not None) for record in coco.images)
    return (
        f"{coco.path}: {len(missing)} of {total} named files are not there, the first is "
        f"{missing[0]}; name the folder of the pictures with `images:` beside `annotations:`"
    )
