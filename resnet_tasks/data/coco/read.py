"""Reader of COCO files with validation, safe repairs and clear messages.

This package and `evaluation/` are the only ones that know category ids and `xywh` boxes. Ids may
have gaps, be unsorted and start at any number. All other code uses indices into a `CategoryMap`,
which is sorted by id. Files that are almost valid are repaired where that is safe. Every repair and
every skipped entry is counted in `CocoFile.problems`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resnet_tasks.data.coco.cache import open_cache
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.parse import parse_coco
from resnet_tasks.data.coco.problems import Findings
from resnet_tasks.data.coco.top_level import parse_annotated_kinds
from resnet_tasks.errors import DataError


def read_coco(
    path: str | Path,
    *,
    images_root: str | Path | None = None,
    annotated: Iterable[str] | None = None,
    keep_degenerate: bool = False,
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
            annotations with neither box nor mask (image). An empty list of annotations counts as
            boxes that were looked for and not found.
        keep_degenerate: Whether to keep boxes without area or outside their image, as evaluation
            code for results files does. No detection can match them, so they count as missed.
        allow_outside: Whether to accept file names that are absolute or contain `..`. They can name
            any file of the machine.
        accept_keyed: Whether to accept images and annotations as objects of id -> record, as some
            publishers write them, in place of lists.

    Raises:
        DataError: If the file is unusable. The message has all of its errors.
    """
    path = Path(path)
    declared = None if annotated is None else parse_annotated_kinds(path, annotated)
    is_default = not (keep_degenerate or allow_outside or accept_keyed)
    cache = open_cache(path, declared) if is_default else None
    cached = None if cache is None else cache.load(images_root)
    if cached is not None:
        return cached
    findings = Findings(path)
    coco = parse_coco(
        path,
        findings,
        images_root,
        declared,
        keep_degenerate=keep_degenerate,
        allow_outside=allow_outside,
        accept_keyed=accept_keyed,
    )
    errors = [problem.message for problem in findings.to_problems() if problem.severity == "error"]
    if coco is None or errors:
        raise DataError("\n".join(errors))
    if cache is None or "missing_size" in findings:  # sizes come from images, which may change
        return coco
    return cache.store(coco, images_root)
