"""Fast path for two clean files of boxes: the compiled evaluator reads the results itself."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import hotcoco
import numpy as np

from resnet_tasks.data.coco.truth import TruthFile
from resnet_tasks.evaluation.coco.backends import CocoTables, compute_hotcoco_tables

_NEGATIVE_SIZE = re.compile(rb"-[\d.eE+-]*\s*(?:,[^,\[\]]*)?\]")
"""Pattern of a negative number in the last or second to last place of a list."""
_BOX_STARTS = (b'"bbox": [', b'"bbox":[')
_MOST_ID = 1 << 62


def compute_tables_fast(
    truth: TruthFile, results: Path, limits: tuple[int, ...]
) -> CocoTables | None:
    """Compute hotcoco's tables of a results file of boxes; None if the file is not clean.

    Faults are only detected here. The slow path reports them.

    Args:
        truth: Objects of the annotation file.
        results: Path of the COCO results JSON.
        limits: Limits of detections per image and class, ascending.
    """
    ids, annotations = truth.images.integer_ids, truth.annotations
    if ids is None or not len(ids) or ids.min() < 0 or ids.max() >= _MOST_ID:
        return None
    classes = truth.categories.ids
    if not (len(annotations.areas) and min(classes) >= 0 and max(classes) < _MOST_ID):
        return None
    expected = hotcoco.COCO.from_arrays(
        [{"id": image_id, "width": 1, "height": 1} for image_id in ids.tolist()],
        truth.categories.to_json(),
        ids[annotations.image_positions],
        np.asarray(classes, np.int64)[annotations.labels],
        annotations.boxes,
        area=annotations.areas,
        iscrowd=annotations.crowd,
    )
    # The raw bytes are read and checked in parallel with the compiled evaluator's reading and
    # matching.
    with ThreadPoolExecutor(2) as executor:
        raw = executor.submit(results.read_bytes)
        try:
            with _drop_lines_of_hotcoco():
                detections = expected.load_res(str(results))
        except (ValueError, TypeError, KeyError, OverflowError, OSError, RuntimeError):
            return None
        tables = executor.submit(compute_hotcoco_tables, expected, detections, limits)
        is_clean = not detections.load_warnings and _is_probably_clean(raw.result())
    return tables.result() if is_clean else None


@contextmanager
def _drop_lines_of_hotcoco() -> Iterator[None]:
    """Remove hotcoco's lines from the standard error; other lines appear after the block.

    hotcoco writes about unknown ids, which the slow path reports, and has no option against it.
    """
    stderr = 2
    try:
        held, original = tempfile.TemporaryFile(), os.dup(stderr)  # noqa: SIM115 - closed below
    except OSError:  # no standard error, or no place for temporary files
        yield
        return
    with held:
        os.dup2(held.fileno(), stderr)
        try:
            yield
        finally:
            os.dup2(original, stderr)
            os.close(original)
            held.seek(0)
            lines = held.read().splitlines(keepends=True)
            os.write(stderr, b"".join(line for line in lines if not line.startswith(b"hotcoco:")))


def _is_probably_clean(raw: bytes) -> bool:
    """Return whether every entry of the list seems to have a score and a box of nonnegative size.

    Unknown images and categories, wrong types and NaN are detected by the reader of the file.
    """
    # Entries of boxes have no nested objects, so braces count entries; RLE masks are not supported.
    number = int(np.count_nonzero(np.frombuffer(raw, np.uint8) == ord("{")))
    if not (raw[:64].lstrip().startswith(b"[") and number > 0):
        return False
    has_boxes = any(raw.count(start) == number for start in _BOX_STARTS)
    # The usual keys contain no `n`. Searching for one letter is cheap, so the search for `null`
    # runs only if there is one.
    has_scores = raw.count(b'"score":') == number and (b"n" not in raw or b"null" not in raw)
    return has_boxes and has_scores and _NEGATIVE_SIZE.search(raw) is None
