"""Reader of COCO files with validation, safe repairs and clear messages.

This package and `evaluation/` are the only ones that know category ids and `xywh` boxes. Ids may
have gaps, be unsorted and start at any number. All other code uses indices into a `CategoryMap`,
which is sorted by id. Files that are almost valid are repaired where that is safe. Every repair and
every skipped entry is counted in `CocoFile.problems`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from resnet_tasks.data.coco.annotation_reader import AnnotationReader
from resnet_tasks.data.coco.cache import open_cache
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.image_reader import ImageReader
from resnet_tasks.data.coco.json_records import CocoContent, open_content
from resnet_tasks.data.coco.packed.annotation_packer import AnnotationPacker
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import FIX_HINT, Findings
from resnet_tasks.data.coco.top_level import (
    parse_annotated_kinds,
    read_info,
    resolve_image_folder,
)
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import disable_gc, read_json

Record = TypeVar("Record")


def read_coco(
    path: str | Path,
    *,
    images_root: str | Path | None = None,
    annotated: Iterable[str] | None = None,
    for_evaluation: bool = False,
    allow_outside: bool = False,
    accept_keyed: bool = False,
) -> CocoFile:
    """Read and validate a COCO file without opening its images.

    Large files get a packed form (`coco.cache`), from which the next read takes about a second.

    Args:
        path: Path of the JSON file.
        images_root: Folder of the images. Default: `info.images_root` (relative to the folder of
            the JSON file), else the folder of the JSON file.
        annotated: Kinds of annotations in the file, a subset of `ANNOTATED`. Default:
            `info.annotated`, else the kinds that the file contains: boxes, masks, semantic maps,
            annotations with neither box nor mask (image). An empty list of annotations means that
            the images were annotated with boxes and contain no objects.
        for_evaluation: Whether to keep boxes without area or outside their image, as evaluation
            code for results files does, and to drop annotations without box. No detection can match
            such a box, so it counts as missed.
        allow_outside: Whether to accept file names that are absolute or contain `..`. They can name
            any file of the machine.
        accept_keyed: Whether to accept images and annotations as objects of id -> record, as some
            publishers write them, in place of lists.

    Raises:
        DataError: If the file is unusable. The message has all of its errors.
    """
    path = Path(path)
    declared = None if annotated is None else parse_annotated_kinds(path, annotated)
    is_default = not (for_evaluation or allow_outside or accept_keyed)
    cache = open_cache(path, declared) if is_default else None
    cached = None if cache is None else cache.load(images_root)
    if cached is not None:
        return cached
    findings = Findings(path)
    coco = _read_content(
        open_content(path, accept_keyed=accept_keyed),
        path,
        findings,
        images_root,
        declared,
        for_evaluation=for_evaluation,
        allow_outside=allow_outside,
    )
    if cache is None or "missing_size" in findings:  # sizes come from images, which may change
        return coco
    return cache.store(coco, images_root)


def _read_content(
    content: CocoContent,
    path: Path,
    findings: Findings,
    images_root: str | Path | None,
    declared: frozenset[str] | None,
    *,
    for_evaluation: bool,
    allow_outside: bool,
) -> CocoFile:
    """Read all records and pack them as they are read; see `read_coco` for the arguments."""
    info = read_info(content.top, findings)
    root = resolve_image_folder(path, info, images_root)
    categories = _read_categories(path, content)
    image_reader = ImageReader(root, findings, allow_outside=allow_outside)
    records = list(_read_all(image_reader.read, _iter_entries(path, content, "images")))
    findings.require_usable()
    images = PackedImages.from_records(records)
    if declared is None and info.get("annotated") is not None:
        declared = parse_annotated_kinds(path, info["annotated"])
    reader = AnnotationReader(
        categories,
        records,
        findings,
        is_listed=content.top.get("annotations") is not None,
        keep_degenerate=for_evaluation,
        all_ids=lambda: _locate_errors(path, "annotations", content.iter_annotation_ids()),
    )
    packer = AnnotationPacker(images)
    with disable_gc():
        for annotation in _read_all(reader.read, _iter_entries(path, content, "annotations")):
            if annotation.bbox is not None or not for_evaluation:
                packer.append(annotation)
    kinds = reader.finish(declared)
    problems = findings.require_usable()
    return CocoFile(path, root, categories, images, packer.pack(), kinds, problems, info)


def _read_categories(path: Path, content: CocoContent) -> CategoryMap:
    try:
        return CategoryMap.from_json(content.top["categories"])
    except DataError as error:
        raise DataError(f"{path}: {error}{FIX_HINT.replace('FILE', str(path))}") from None


def _read_all(
    read: Callable[[int, Any], Record | None], entries: Iterator[Any]
) -> Iterator[Record]:
    """Yield the usable records, and release each entry when the next is requested."""
    for position, raw in enumerate(entries):
        record = read(position, raw)
        if record is not None:
            yield record


def _iter_entries(path: Path, content: CocoContent, key: str) -> Iterator[Any]:
    return _locate_errors(path, key, content.iter_entries(key))


def _locate_errors(path: Path, key: str, values: Iterator[Any]) -> Iterator[Any]:
    """Yield the values, and add the file and the position to the error of an invalid entry.

    Raises:
        DataError: If an entry of `key` is not valid JSON.
    """
    try:
        yield from values
    except DataError as error:
        read_json(path)  # raises a DataError with the position in the file
        raise DataError(f"{path}: an entry of `{key}` {error}") from None
