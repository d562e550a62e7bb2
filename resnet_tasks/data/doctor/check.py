"""Check that finds all problems of a COCO file in one pass over its records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.annotation_reader import AnnotationReader
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import count_by_kind
from resnet_tasks.data.coco.image_reader import ImageReader
from resnet_tasks.data.coco.json_records import CocoContent, open_content
from resnet_tasks.data.coco.problems import (
    Finding,
    Findings,
    Id,
    Problem,
)
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.top_level import (
    parse_annotated_kinds,
    read_info,
    resolve_image_folder,
)
from resnet_tasks.data.doctor.image_checks import ImageHashes, ImageReading, check_images
from resnet_tasks.data.doctor.image_content import KnownImages
from resnet_tasks.data.doctor.object_checks import ObjectChecks
from resnet_tasks.data.images.bit_depths import BitDepths
from resnet_tasks.errors import DataError

Advance = Callable[[int, int], None]
"""Progress callback, called with (done, total)."""


@dataclass(frozen=True)
class FileCheck:
    """Result of checking a COCO file.

    Attributes:
        path: Path of the JSON file.
        problems: Problems, one for each kind, worst first.
        findings: All single findings, in file order.
        images_root: Folder of the images.
        sem_seg_root: Folder of the semantic maps.
        categories: Mapping between category ids and indices; None if errors made it unreadable.
        images: Usable image records, in file order.
        annotated: Kinds of annotations in the file, as far as they could be determined.
        objects: Category id -> number of usable annotations.
        hashes: Perceptual hashes of the images, if requested.
        depths: Number of images of every bit depth.
        has_read_images: Whether the images were decoded.
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
    hashes: ImageHashes | None = None
    depths: BitDepths = field(default_factory=BitDepths)
    has_read_images: bool = False

    @property
    def is_usable(self) -> bool:
        """True if training and evaluation can use the file."""
        return not any(problem.severity == "error" for problem in self.problems)

    @property
    def is_clean(self) -> bool:
        """True if the file has no problems except notes."""
        return all(problem.severity == "note" for problem in self.problems)

    def count_problems(self) -> dict[str, int]:
        """Return the number of findings of each kind, most frequent first."""
        return count_by_kind(self.problems)


@dataclass(frozen=True)
class CheckOptions:
    """Extent of a check.

    Attributes:
        images_root: Folder of the images; see `read_coco`.
        read_images: Whether to decode all images and semantic maps. Their existence is always
            checked.
        hash_images: Whether to compute the hashes for the comparison of images between splits.
        allow_outside: Whether to accept file names outside `images_root`; see `read_coco`.
        advance: Progress callback over the images.
        known_images: Content of image files, to which this check adds, for several checks of the
            same extent; None: every check reads all files.
    """

    images_root: str | Path | None = None
    read_images: bool = False
    hash_images: bool = False
    allow_outside: bool = False
    advance: Advance | None = None
    known_images: KnownImages | None = None


def check_coco(path: str | Path, options: CheckOptions | None = None) -> FileCheck:
    """Find all problems of a COCO file, without raising errors for its content.

    Args:
        path: Path of the JSON file.
        options: Extent of the check. Default: without decoding images.
    """
    path, options = Path(path), options or CheckOptions()
    try:
        return check_content(path, open_content(path), options)
    except DataError as error:
        findings = Findings(path, keep_all=True)
        findings.add("unreadable", detail=str(error).removeprefix(f"{path}").lstrip(": "))
        return FileCheck(path, findings.to_problems(), tuple(findings.all))


def check_content(path: Path, content: CocoContent, options: CheckOptions) -> FileCheck:
    """Find all problems of the content of a COCO file.

    Args:
        path: Path of the JSON file.
        content: Content of the file, or a corrected version of it.
        options: Extent of the check.

    Raises:
        DataError: If an entry is not JSON, the image folder does not exist, or `info` is invalid.
    """
    findings = Findings(path, keep_all=True)
    info = read_info(content.top, findings)
    root = resolve_image_folder(path, info, options.images_root)
    declared = info.get("annotated")
    annotated_kinds = None if declared is None else parse_annotated_kinds(path, declared)
    categories = _read_categories(content, findings)
    images = _read_images(content, root, findings, options)
    objects: dict[int, int] = {}
    if categories is not None:
        objects, annotated_kinds = _check_objects(
            content, categories, list(images.values()), findings, annotated_kinds
        )
    findings.location = None
    sem_seg_root = path.parent / str(info.get("sem_seg_root", ""))
    depths = BitDepths()
    hashes = check_images(
        images,
        (root, sem_seg_root),
        categories,
        findings,
        ImageReading(options.read_images, options.hash_images, options.known_images),
        depths=depths,
        advance=options.advance,
    )
    if (mixture := depths.describe_mixture()) is not None:
        findings.add("mixed_depths", detail=mixture)
    depths.read_samples()
    if (warning := depths.describe_unused_bits()) is not None:
        findings.add("unused_bits", detail=warning)
    return FileCheck(
        path,
        findings.to_problems(),
        tuple(findings.all),
        root,
        sem_seg_root,
        categories,
        tuple(images.values()),
        annotated_kinds or frozenset(),
        objects,
        hashes,
        depths,
        options.read_images,
    )


def _read_categories(content: CocoContent, findings: Findings) -> CategoryMap | None:
    try:
        return CategoryMap.from_json(content.top["categories"])
    except DataError as error:
        findings.add("bad_categories", detail=str(error))
        return None


def _read_images(
    content: CocoContent, root: Path, findings: Findings, options: CheckOptions
) -> dict[int, ImageRecord]:
    """Return the usable records by their position in the file."""
    reader = ImageReader(root, findings, allow_outside=options.allow_outside)
    images = {}
    for position, raw in enumerate(content.iter_entries("images")):
        record = reader.read(position, raw)
        if record is not None:
            images[position] = record
    findings.location = None
    if not content.top["images"]:
        findings.add("no_images")
    return images


def _check_objects(
    content: CocoContent,
    categories: CategoryMap,
    images: list[ImageRecord],
    findings: Findings,
    declared: frozenset[str] | None,
) -> tuple[dict[int, int], frozenset[str]]:
    """Check the annotations of a file.

    Returns:
        Category id -> number of usable annotations, and the kinds of annotations in the file.
    """
    # The problem of an image is reported once, not again for each of its annotations.
    unusable = {finding.image_id for finding in findings.all if finding.image_id is not None} - {
        record.id for record in images
    }
    reader = AnnotationReader(
        categories,
        images,
        findings,
        is_listed=content.top.get("annotations") is not None,
        all_ids=content.iter_annotation_ids,
    )
    checks = ObjectChecks(categories, images, findings)
    for position, raw in enumerate(content.iter_entries("annotations")):
        if _belongs_to(raw, unusable):
            continue
        annotation = reader.read(position, raw)
        if annotation is not None:
            checks.check(annotation)
    annotated_kinds = reader.finish(declared)
    findings.location = None
    checks.finish(annotated_kinds)
    return checks.objects, annotated_kinds


def _belongs_to(raw: Any, images: Iterable[Id]) -> bool:
    if not (images and isinstance(raw, dict)):
        return False
    image_id = raw.get("image_id")
    return isinstance(image_id, int | str) and image_id in images
