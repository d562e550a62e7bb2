"""One pass over the records of a COCO file, which are packed as they are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_file import CocoFile
from resnet_tasks.data.coco_packing import AnnotationPacker, PackedImages
from resnet_tasks.data.coco_parsing import (
    AnnotationReader,
    ImageReader,
    declared_kinds,
    picture_folder,
)
from resnet_tasks.data.coco_problems import Findings, listed
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.data.coco_streaming import Content, open_content
from resnet_tasks.data.json_files import read_json, uncollected
from resnet_tasks.errors import DataError


def parsed(
    path: Path,
    findings: Findings,
    images_root: str | Path | None,
    annotated: Iterable[str] | None,
    *,
    keep_degenerate: bool = False,
    allow_outside: bool = False,
) -> CocoFile | None:
    """The file, or None where errors among the findings keep its annotations from being read.

    Args:
        path: The JSON.
        findings: Gets what is wrong.
        images_root: As in `read_coco`.
        annotated: As in `read_coco`.
        keep_degenerate: As in `read_coco`.
        allow_outside: As in `read_coco`.

    Raises:
        DataError: If it is not there, no JSON or no COCO file.
    """
    content = open_content(path)
    info = content.top.get("info")
    if not isinstance(info, dict):
        findings.add("missing_info")
        info = {}
    root = picture_folder(path, info, images_root)
    categories = _categories(path, content)
    records = _records(path, content, ImageReader(root, findings, allow_outside=allow_outside))
    if findings.has_errors():
        return None
    images = PackedImages.of(records)
    findings.context = {
        "images": listed([record.id for record in records]),
        "categories": listed(categories.ids, 100),
    }
    is_listed = content.top.get("annotations") is not None
    if not is_listed:
        findings.add("missing_annotations")
    declared = annotated if annotated is not None else info.get("annotated")
    chosen = None if declared is None else declared_kinds(path, declared)
    parser = AnnotationReader(
        categories,
        records,
        findings,
        keep_degenerate=keep_degenerate,
        all_ids=content.annotation_ids,
    )
    places = {record.id: place for place, record in enumerate(records)}
    packer = AnnotationPacker(images)
    with uncollected():
        for position, each in enumerate(_entries(path, content, "annotations")):
            annotation = parser.read(position, each)
            if annotation is not None:
                packer.add(places[annotation.image_id], annotation)
    if chosen is None:
        chosen = parser.held(is_listed=is_listed)
    if parser.labels_only and "image" not in chosen:
        for each in parser.labels_only:
            findings.add("no_box", *each)
    if findings.has_errors():
        return None
    problems = findings.problems()
    return CocoFile(path, root, categories, images, packer.packed(), chosen, problems, info)


def _categories(path: Path, content: Content) -> CategoryMap:
    try:
        return CategoryMap.from_json(content.top["categories"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _records(path: Path, content: Content, reader: ImageReader) -> list[ImageRecord]:
    entries = enumerate(_entries(path, content, "images"))
    found = (reader.read(position, each) for position, each in entries)
    return [record for record in found if record is not None]


def _entries(path: Path, content: Content, key: str) -> Iterator[Any]:
    """The records under a key, each let go of when the next is asked for.

    Raises:
        DataError: If one is no JSON.
    """
    try:
        yield from content.entries(key)
    except DataError as error:
        read_json(path)  # says where in the file
        raise DataError(f"{path}: an entry of `{key}` {error}") from None
