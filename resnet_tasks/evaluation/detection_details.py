"""What went wrong in detections: curves, confusions, error types, and each picture's quality.

Shape glossary: `D` detections, `G` annotated objects, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco_tables import Tables
from resnet_tasks.evaluation.matches import Matches, Pairs, match_greedily, rank_within
from resnet_tasks.evaluation.resampling import RECALLS
from resnet_tasks.metrics import BACKGROUND

SCORE = 0.5
"""Detections below it are left out of confusions and of a picture's quality."""
ERROR_TYPES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")
"""TIDE's names (Bolya et al., ECCV 2020): wrong class, poor box, both, second box on the same
object, on background, object not found; and all false positives or misses mended at once."""


def precision_curves(tables: Tables, classes: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Precision at IoU 0.5 by recall for every class that the truth holds, and their mean (`all`).

    Returns:
        Name -> `recall` (101 levels), `precision`, and, but for the mean, `score`: keep detections
        from this score to work at that recall (0 where it is not reached).
    """
    precision, scores = tables.precision[0, :, :, 0, -1], tables.scores[0, :, :, 0, -1]
    held = [i for i in range(len(classes)) if (precision[:, i] > -1).all()]
    levels = RECALLS.tolist()
    if not held:
        return {}
    mean = precision[:, held].mean(axis=1).tolist()
    curves = {"all": {"recall": levels, "precision": mean}}
    for i in held:
        curves[classes[i]] = {
            "recall": levels,
            "precision": precision[:, i].tolist(),
            "score": scores[:, i].tolist(),
        }
    return curves


def confusion(
    matches: Matches,
    pairs_of: Callable[[NDArray[np.int64]], Pairs],
    classes: Sequence[str],
) -> tuple[list[str], list[list[int]]]:
    """Which class is taken for which, at IoU 0.5 and scores from `SCORE`.

    Whatever their class, detections choose in order of score the free object that they overlap
    most. What finds none stands in the row of the background, what is not found in its column;
    detections on crowds are left out.

    Args:
        matches: Of all pictures.
        pairs_of: Gives the pairs with objects of any class, for the rows of detections; detections
            are counted among these.
        classes: Names in label order.

    Returns:
        Labels (the classes, then `background`), and the matrix, truth by row, prediction by column.
    """
    truth, found = matches.truth, matches.found
    kept = np.flatnonzero(found.scores >= SCORE)
    pairs = pairs_of(matches.rows[kept])
    labels, pictures = found.labels[kept], found.pictures[kept]
    rank = rank_within(pictures, found.scores[kept])
    ignored = truth.crowd[:, None]
    greedy = match_greedily(pairs, rank, truth.crowd, ignored, thresholds=np.array([0.5]))
    chosen = np.full(len(rank), -1, np.int64)
    chosen[greedy.found] = greedy.truth[:, 0, 0]
    num_classes = len(classes)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    is_paired = chosen >= 0
    is_paired[is_paired] = ~truth.crowd[chosen[is_paired]]
    np.add.at(matrix, (truth.labels[chosen[is_paired]], labels[is_paired]), 1)
    matrix[-1, :-1] = np.bincount(labels[chosen < 0], minlength=num_classes)
    is_missed = ~truth.crowd
    is_missed[chosen[is_paired]] = False
    matrix[:-1, -1] = np.bincount(truth.labels[is_missed], minlength=num_classes)
    return [*classes, BACKGROUND], matrix.tolist()


def picture_values(matches: Matches, image_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """How good each picture's detections are, and how sure the worst mistake is.

    `quality` is F1 at scores from `SCORE` and IoU 0.5 (1 where nothing is there and nothing is
    found); `surprise` the highest score of a detection without an object of its class, 0 where
    there is none.

    Args:
        matches: Of all pictures.
        image_ids: By rank.
    """
    truth, found, number = matches.truth, matches.found, len(image_ids)
    chosen = matches.first
    on_crowd = np.zeros(len(chosen), np.bool_)
    on_crowd[chosen >= 0] = truth.crowd[chosen[chosen >= 0]]
    is_wrong = chosen < 0
    counted = (found.scores >= SCORE) & ~on_crowd
    hits = np.bincount(found.pictures[counted & ~is_wrong], minlength=number)
    answers = np.bincount(found.pictures[counted], minlength=number)
    wanted = np.bincount(truth.pictures[~truth.crowd], minlength=number)
    total = answers + wanted
    quality = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    surprise = np.zeros(number)
    np.maximum.at(surprise, found.pictures[is_wrong], found.scores[is_wrong])
    rows = zip(image_ids, quality.tolist(), np.clip(surprise, 0, 1).tolist(), strict=True)
    return [
        {"image_id": image_id, "quality": good, "surprise": sure} for image_id, good, sure in rows
    ]


def error_types(run: Any) -> tuple[dict[str, float], list[str]]:
    """AP at IoU 0.5 lost to each kind of error (TIDE), as hotcoco counts it.

    Args:
        run: A hotcoco `COCOeval` that has matched its pictures.

    Returns:
        Kind -> AP that would be won if this kind alone were mended; and a sentence on it.
    """
    made = run.tide_errors(pos_thr=0.5, bg_thr=0.1)
    lost = {name: float(made["delta_ap"][name]) for name in ERROR_TYPES}
    note = (
        "Error types after TIDE (Bolya et al., ECCV 2020), computed with hotcoco: AP at IoU 0.5 "
        "(background below IoU 0.1) that mending one kind alone would win; crowds are left out."
    )
    return lost, [note]
