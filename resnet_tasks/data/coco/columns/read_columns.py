"""COCO annotation and results files as columns of numbers, for the evaluation of large files.

Valid files are decoded straight into columns, chunk by chunk. Any irregularity sends the whole file
to the slower validating readers, which repair it or report its first invalid entries.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path

from resnet_tasks.data.coco.columns.fast_readers import read_clean_results, read_clean_truth
from resnet_tasks.data.coco.columns.object_columns import Kind, ResultColumns, TruthColumns
from resnet_tasks.files.json_files import disable_gc

_VALIDATING_READERS = "resnet_tasks.data.coco.columns.validating_readers"
"""Module that is imported only if a file is not clean. Its imports (Pillow, safetensors) take 20
ms, as long as reading a small clean file."""


def read_truth_columns(path: str | Path, *, kind: Kind = "box") -> TruthColumns:
    """Read the objects of a COCO annotation file.

    Args:
        path: Path of the JSON file. Small defects (`info`, `iscrowd`, `area`, ids) are repaired.
        kind: `box`, or `mask` to keep the segmentations.

    Raises:
        DataError: If the file cannot be used. The message names the first bad entries.
    """
    path = Path(path)
    with disable_gc(), suppress(OverflowError):  # raised by integers beyond 64 bits
        if (clean := read_clean_truth(path, kind)) is not None:
            return clean
    repaired: TruthColumns = import_module(_VALIDATING_READERS).read_repaired_truth(path, kind)
    return repaired


def read_result_columns(
    path: str | Path, truth: TruthColumns, *, kind: Kind = "box"
) -> ResultColumns:
    """Read the detections of a COCO results file and check every entry against the ground truth.

    Args:
        path: Path of the JSON file, a list of `{image_id, category_id, bbox: [x, y, w, h], score}`.
            For masks, `segmentation` (run lengths or polygons) replaces `bbox` or is given in
            addition.
        truth: Ground truth of the results.
        kind: Kind of detection to evaluate, `box` or `mask`.

    Raises:
        DataError: If the file is not such a list, or an entry has an unknown image or category, or
            no valid box, mask or score. The message names the first such entries.
    """
    path = Path(path)
    if kind == "box":  # Masks are checked one by one, so that no columns can be read in bulk.
        with disable_gc(), suppress(OverflowError):
            if (clean := read_clean_results(path, truth)) is not None:
                return clean
    validated: ResultColumns = import_module(_VALIDATING_READERS).read_validated_results(
        path, truth, kind
    )
    return validated
