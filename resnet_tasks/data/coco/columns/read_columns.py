"""COCO annotation and results files as columns of numbers: what evaluation of big files needs.

Clean files are decoded straight into columns, portion by portion. Anything unusual sends the whole
file to the slower readers, which repair it, or say what is wrong with its first entries.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path

from resnet_tasks.data.coco.columns.fast_readers import read_clean_results, read_clean_truth
from resnet_tasks.data.coco.columns.object_columns import Kind, ResultColumns, TruthColumns
from resnet_tasks.files.json_files import disable_gc

_VALIDATING_READERS = "resnet_tasks.data.coco.columns.validating_readers"
"""Imported when a file is not clean: its imports (Pillow, safetensors) take 20 ms, as long as a
small clean file."""


def read_truth_columns(path: str | Path, *, kind: Kind = "box") -> TruthColumns:
    """The objects of a COCO annotation file.

    Args:
        path: The JSON; small defects (`info`, `iscrowd`, `area`, ids) are repaired.
        kind: `mask` keeps the segmentations.

    Raises:
        DataError: If the file cannot be used; the message names the first bad entries.
    """
    path = Path(path)
    with disable_gc(), suppress(OverflowError):  # of whole numbers beyond 64 bits
        if (clean := read_clean_truth(path, kind)) is not None:
            return clean
    repaired: TruthColumns = import_module(_VALIDATING_READERS).read_repaired_truth(path, kind)
    return repaired


def read_result_columns(
    path: str | Path, truth: TruthColumns, *, kind: Kind = "box"
) -> ResultColumns:
    """The detections of a COCO results file, every entry checked against the truth.

    Args:
        path: JSON, a list of `{image_id, category_id, bbox: [x, y, w, h], score}`; masks:
            `segmentation` (run lengths or polygons) in place of `bbox` or beside it.
        truth: What it belongs to.
        kind: What is judged.

    Raises:
        DataError: If it is no such list, or an entry has an unknown image or category, or no box,
            mask or score that can be evaluated; the message names the first ones.
    """
    path = Path(path)
    with disable_gc(), suppress(OverflowError):
        if (clean := read_clean_results(path, truth, kind)) is not None:
            return clean
    validated: ResultColumns = import_module(_VALIDATING_READERS).read_validated_results(
        path, truth, kind
    )
    return validated
