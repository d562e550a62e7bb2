"""The short way from two clean files to the numbers: the compiled evaluator reads the results."""

from __future__ import annotations

import re
from pathlib import Path

import hotcoco
import numpy as np

from resnet_tasks.data.coco_columns import TruthColumns
from resnet_tasks.evaluation.coco_tables import Tables, compiled_tables

_NEGATIVE_SIZE = re.compile(rb",\s*-[\d.eE+-]*\s*(?:,[^,\[\]]*)?\]")
"""A negative number that is the last or the last but one of a list."""
_NO_LIST = re.compile(rb'"bbox"\s*:\s*[^\s\[]')
_FAULTS = {"dt_orphan_image_id", "dt_orphan_category_id", "dt_missing_score"}
_MOST_ID = 1 << 62


def tables_of_clean_files(
    truth: TruthColumns, results: Path, limits: tuple[int, ...]
) -> Tables | None:
    """Hotcoco's tables of a results file of boxes; None where anything about it is unusual.

    Faults are only noticed here. What they are, the slower way says.

    Args:
        truth: Of the annotation file.
        results: COCO results JSON.
        limits: Rising limits of detections per picture and class.
    """
    ids = truth.image_ids
    if not ids or not all(type(each) is int and 0 <= each < _MOST_ID for each in ids):
        return None
    if not (len(truth.labels) and min(truth.categories.ids) >= 0 and _looks_clean(results)):
        return None
    numbers = np.asarray(ids, np.int64)
    expected = hotcoco.COCO.from_arrays(
        [{"id": each, "width": 1, "height": 1} for each in ids],
        truth.categories.to_json(),
        numbers[truth.pictures],
        np.asarray(truth.categories.ids, np.int64)[truth.labels],
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    try:
        found = expected.load_res(str(results))
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RuntimeError):
        return None
    health = expected.healthcheck(found)
    if found.load_warnings or any(each["code"] in _FAULTS for each in health["errors"]):
        return None
    if any(each["code"] in _FAULTS for each in health["warnings"]):
        return None
    return compiled_tables(expected, found, limits)


def _looks_clean(results: Path) -> bool:
    """Whether every entry seems to have a box without negative sizes, and a score."""
    try:
        raw = results.read_bytes()
    except OSError:
        return False
    number = raw.count(b'"bbox"')
    is_list = raw[:64].lstrip().startswith(b"[")
    return (
        is_list
        and number > 0
        and raw.count(b'"score"') == number
        and _NO_LIST.search(raw) is None
        and _NEGATIVE_SIZE.search(raw) is None
    )
