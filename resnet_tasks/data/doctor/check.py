"""Everything that is wrong with a COCO file, found in one pass over its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_parsing import (
    AnnotationReader,
    ImageReader,
    declared_kinds,
    picture_folder,
)
from resnet_tasks.data.coco_problems import Finding, Findings, Id, Problem, listed, summary
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.data.coco_streaming import Content, open_content
from resnet_tasks.data.doctor.objects import ObjectChecks
from resnet_tasks.data.doctor.pictures import Hashes, check_pictures
from resnet_tasks.errors import DataError

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class FileCheck:
    """What was found in a COCO file.

    Attributes:
        path: The JSON.
        problems: One for each kind, the worst first.
        findings: Every single one, in the order of the file.
        images_root: Folder of the pictures.
        sem_seg_root: Folder of the semantic maps.
        categories: None where errors kept them from being read.
        images: Those that can be used, in file order.
        annotated: What the file annotates, as far as that could be told.
        objects: Number of usable annotations by category id.
        hashes: Of the pictures, where they were asked for.
    """

    path: Path
    problems: tuple[Problem, ...]
    findings: tuple[Finding, ...]
    images_root: Path = Path()
    sem_seg_root: Path = Path()
    categories: CategoryMap | None = None
    images: tuple[ImageRecord, ...] = ()
    annotated: frozenset[str] = frozenset()
    objects: Mapping[int, int] = field(default_factory=dict)
    hashes: Hashes | None = None

    @property
    def is_usable(self) -> bool:
        """Whether training and evaluation can work with the file."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing beyond notes."""
        return all(problem.severity == "note" for problem in self.problems)

    def summary(self) -> dict[str, int]:
        """Number of findings by kind, most frequent first."""
        return summary(self.problems)


@dataclass(frozen=True)
class Look:
    """How closely a file is looked at.

    Attributes:
        images_root: As in `read_coco`.
        read_images: Decode every picture and semantic map, too; that they are there is always
            looked at.
        hash_images: Also make the hashes by which pictures of several splits are compared.
        allow_outside: As in `read_coco`.
        advance: For progress over the pictures.
    """

    images_root: str | Path | None = None
    read_images: bool = False
    hash_images: bool = False
    allow_outside: bool = False
    advance: Advance | None = None


def check_coco(path: str | Path, look: Look | None = None) -> FileCheck:
    """All that is wrong with a COCO file; raises nothing for what is in it.

    Args:
        path: The JSON.
        look: How closely to look; default: without decoding pictures.
    """
    path, look = Path(path), look or Look()
    findings = Findings(path, keep_all=True)
    try:
        return _checked(path, open_content(path), findings, look)
    except DataError as error:
        findings.place = None
        findings.add("unreadable", detail=str(error).removeprefix(f"{path}").lstrip(": "))
        return FileCheck(path, findings.problems(), tuple(findings.all))


def _checked(path: Path, content: Content, findings: Findings, look: Look) -> FileCheck:
    info = content.top.get("info")
    if not isinstance(info, dict):
        findings.add("missing_info")
        info = {}
    root = picture_folder(path, info, look.images_root)
    declared = info.get("annotated")
    chosen = None if declared is None else declared_kinds(path, declared)
    categories = _categories(content, findings)
    images = _images(content, root, findings, look)
    objects: dict[int, int] = {}
    if categories is not None:
        objects, held = _objects(content, categories, list(images.values()), findings, chosen)
        chosen = held if chosen is None else chosen
    findings.place = None
    sem_seg_root = path.parent / str(info.get("sem_seg_root", ""))
    hashes = check_pictures(
        images,
        (root, sem_seg_root),
        categories,
        findings,
        read=look.read_images,
        hashes=look.hash_images,
        advance=look.advance,
    )
    return FileCheck(
        path,
        findings.problems(),
        tuple(findings.all),
        root,
        sem_seg_root,
        categories,
        tuple(images.values()),
        chosen or frozenset(),
        objects,
        hashes,
    )


def _categories(content: Content, findings: Findings) -> CategoryMap | None:
    try:
        return CategoryMap.from_json(content.top["categories"])
    except DataError as error:
        findings.add("bad_categories", detail=str(error))
        return None


def _images(content: Content, root: Path, findings: Findings, look: Look) -> dict[int, ImageRecord]:
    """The usable records by their position in the file."""
    reader = ImageReader(root, findings, allow_outside=look.allow_outside)
    images = {}
    for position, raw in enumerate(content.entries("images")):
        record = reader.read(position, raw)
        if record is not None:
            images[position] = record
    findings.place = None
    if not content.top["images"]:
        findings.add("no_images")
    return images


def _objects(
    content: Content,
    categories: CategoryMap,
    images: list[ImageRecord],
    findings: Findings,
    declared: frozenset[str] | None,
) -> tuple[dict[int, int], frozenset[str]]:
    """Usable annotations by category id, and what the file holds."""
    findings.context = {
        "images": listed([record.id for record in images]),
        "categories": listed(categories.ids, 100),
    }
    if content.top.get("annotations") is None:
        findings.add("missing_annotations")
    # What is wrong with an image is said once, not again for each of its annotations.
    unusable = {each.image_id for each in findings.all if each.image_id is not None} - {
        record.id for record in images
    }
    reader = AnnotationReader(
        categories,
        images,
        findings,
        keep_degenerate=False,
        all_ids=content.annotation_ids,
    )
    checks = ObjectChecks(categories, images, findings)
    for position, raw in enumerate(content.entries("annotations")):
        if _belongs_to(raw, unusable):
            continue
        annotation = reader.read(position, raw)
        if annotation is not None:
            checks.take(annotation)
    held = reader.held(is_listed=content.top.get("annotations") is not None)
    if "image" not in (held if declared is None else declared):
        for each in reader.labels_only:
            findings.add("no_box", *each)
    findings.place = None
    checks.finish(held if declared is None else declared)
    return checks.objects, held


def _belongs_to(raw: Any, images: Iterable[Id]) -> bool:
    if not (images and isinstance(raw, dict)):
        return False
    image_id = raw.get("image_id")
    return isinstance(image_id, int | str) and image_id in images
