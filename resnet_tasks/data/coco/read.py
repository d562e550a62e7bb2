"""COCO files: parsed once, checked, and explained where something is wrong with them.

The only module (with `evaluation/`) that knows category ids and `xywh` boxes. Ids may have gaps, be
unsorted, start anywhere; everything else works on indices into a `CategoryMap`, which is sorted by
id. Files that are almost COCO are repaired where that is safe; every repair and everything left out
is counted in `CocoFile.problems`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_tasks.data.coco.cache import open_cache
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.parse import parse_coco
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.data.coco.top_level import parse_annotated_kinds
from resnet_tasks.errors import DataError
from resnet_tasks.structures.evaluation import as_array

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions import Detections


def read_coco(
    path: str | Path,
    *,
    images_root: str | Path | None = None,
    annotated: Iterable[str] | None = None,
    keep_degenerate: bool = False,
    allow_outside: bool = False,
) -> CocoFile:
    """A COCO file, parsed and checked; images are not touched.

    Of a big file a packed form is kept (`coco.cache`), from which the next reading takes a second.

    Args:
        path: The JSON.
        images_root: Folder of the images. Default: `info.images_root` (relative to the JSON's
            folder), else the JSON's folder.
        annotated: What the file annotates, of `ANNOTATED`. Default: `info.annotated`, else what it
            holds: boxes, masks, semantic maps, annotations that have neither box nor mask (image).
            An empty list of annotations counts as boxes that were looked for and not found.
        keep_degenerate: Keep boxes without area or outside their image, as the judges of results
            files do: nothing can match them, so they count as missed.
        allow_outside: Accept file names that are absolute or hold `..`; they can name any file of
            the machine.

    Raises:
        DataError: With all errors of the file that keep it from being used.
    """
    path = Path(path)
    declared = None if annotated is None else parse_annotated_kinds(path, annotated)
    cache = None if keep_degenerate or allow_outside else open_cache(path, declared)
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
    )
    errors = [problem.message for problem in findings.to_problems() if problem.severity == "error"]
    if coco is None or errors:
        raise DataError("\n".join(errors))
    if cache is None or "missing_size" in findings:  # sizes come from images, which may change
        return coco
    return cache.store(coco, images_root)


def to_coco_results(
    detections: Detections, image_id: Id, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """The entries of a COCO results file for one image, numbers at full precision.

    Args:
        detections: In the frame of the original image.
        image_id: The image's id in the COCO file.
        category_ids: By label index of the detections.
    """
    boxes = boxes_to_xywh(detections.boxes).tolist()
    scores = as_array(detections.scores).astype("float64").tolist()
    labels = as_array(detections.labels).tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
