"""One-pass parser of COCO files, which packs the records as it reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.annotation_reader import AnnotationReader
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.image_reader import ImageReader
from resnet_tasks.data.coco.packed.annotation_packer import AnnotationPacker
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import Findings, format_list
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.data.coco.streaming import CocoContent, open_content
from resnet_tasks.data.coco.top_level import parse_annotated_kinds, resolve_image_folder
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import disable_gc, read_json


def parse_coco(
    path: Path,
    findings: Findings,
    images_root: str | Path | None,
    annotated: Iterable[str] | None,
    *,
    keep_degenerate: bool = False,
    allow_outside: bool = False,
    accept_keyed: bool = False,
) -> CocoFile | None:
    """Return the parsed file, or None if errors among the findings make it unusable.

    Args:
        path: Path of the JSON file.
        findings: Collector of the problems.
        images_root: Folder of the images; see `read_coco`.
        annotated: Kinds of annotations that the caller declares; see `read_coco`.
        keep_degenerate: Whether to keep boxes without area or outside their image.
        allow_outside: Whether to accept file names outside `images_root`.
        accept_keyed: Whether to accept objects of id -> record in place of lists.

    Raises:
        DataError: If the file does not exist, is not JSON or is not a COCO file.
    """
    content = open_content(path, accept_keyed=accept_keyed)
    info = content.top.get("info")
    if not isinstance(info, dict):
        findings.add("missing_info")
        info = {}
    root = resolve_image_folder(path, info, images_root)
    categories = _read_categories(path, content)
    records = _read_records(path, content, ImageReader(root, findings, allow_outside=allow_outside))
    if findings.has_errors():
        return None
    images = PackedImages.from_records(records)
    findings.context = {
        "images": format_list([record.id for record in records]),
        "categories": format_list(categories.ids, 100),
    }
    is_listed = content.top.get("annotations") is not None
    if not is_listed:
        findings.add("missing_annotations")
    declared = annotated if annotated is not None else info.get("annotated")
    annotated_kinds = None if declared is None else parse_annotated_kinds(path, declared)
    parser = AnnotationReader(
        categories,
        records,
        findings,
        keep_degenerate=keep_degenerate,
        all_ids=lambda: _locate_errors(path, "annotations", content.iter_annotation_ids()),
    )
    positions = {record.id: place for place, record in enumerate(records)}
    packer = AnnotationPacker(images)
    with disable_gc():
        for position, record in enumerate(_iter_entries(path, content, "annotations")):
            annotation = parser.read(position, record)
            if annotation is not None:
                packer.append_at(positions[annotation.image_id], annotation)
    if annotated_kinds is None:
        annotated_kinds = parser.get_annotated_kinds(is_listed=is_listed)
    if parser.labels_only and "image" not in annotated_kinds:
        for record in parser.labels_only:
            findings.add("no_box", *record)
    if findings.has_errors():
        return None
    problems = findings.to_problems()
    return CocoFile(path, root, categories, images, packer.pack(), annotated_kinds, problems, info)


def _read_categories(path: Path, content: CocoContent) -> CategoryMap:
    try:
        return CategoryMap.from_json(content.top["categories"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_records(path: Path, content: CocoContent, reader: ImageReader) -> list[ImageRecord]:
    entries = enumerate(_iter_entries(path, content, "images"))
    parsed_records = (reader.read(position, raw) for position, raw in entries)
    return [record for record in parsed_records if record is not None]


def _iter_entries(path: Path, content: CocoContent, key: str) -> Iterator[Any]:
    """Yield the records under a key, and release each one when the next is requested.

    Raises:
        DataError: If a record is not valid JSON.
    """
    return _locate_errors(path, key, content.iter_entries(key))


def _locate_errors(path: Path, key: str, values: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from values
    except DataError as error:
        read_json(path)  # raises a DataError with the position in the file
        raise DataError(f"{path}: an entry of `{key}` {error}") from None
