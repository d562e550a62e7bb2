"""Diagnostics of detections: curves, confusion matrix, error types and quality of each image.

Shape glossary: `D` detections, `G` annotated objects, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.backends import CocoTables
from resnet_tasks.evaluation.coco.matching import Matches, Pairs, match_greedily, rank_within_groups
from resnet_tasks.evaluation.coco.precision_curves import RECALLS
from resnet_tasks.evaluation.numerics.weighted_means import nan_to_none
from resnet_tasks.structures.evaluation import BACKGROUND

SCORE = 0.5
"""Minimum score of detections in the confusion matrix and in the quality of an image."""
ERROR_TYPES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN")
"""Error types of TIDE (Bolya et al., ECCV 2020): wrong class, poor localization, both, duplicate
box on the same object, background, missed object; and all false positives or all misses fixed at
once."""


def compute_pr_curves(
    tables: CocoTables, classes: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Compute precision at IoU 0.5 by recall, for every class in the ground truth and their mean.

    Returns:
        Class name (`all`: the mean) -> `recall` (101 levels), `precision` and, except for the mean,
        `score`: the minimum score that reaches this recall (0 if it is not reached).
    """
    precision, scores = tables.precision[0, :, :, 0, -1], tables.scores[0, :, :, 0, -1]
    present_classes = [i for i in range(len(classes)) if (precision[:, i] > -1).all()]
    levels = RECALLS.tolist()
    if not present_classes:
        return {}
    mean = precision[:, present_classes].mean(axis=1).tolist()
    curves = {"all": {"recall": levels, "precision": mean}}
    for i in present_classes:
        curves[classes[i]] = {
            "recall": levels,
            "precision": precision[:, i].tolist(),
            "score": scores[:, i].tolist(),
        }
    return curves


def compute_confidence_curves(matches: Matches, classes: Sequence[str]) -> dict[str, Any]:
    """Compute precision, recall and F1 of the detections with at least each confidence.

    A detection is right if COCO's matching at IoU 0.5 gives it an object of its class; detections
    on crowds are excluded.

    Args:
        matches: Matches of all images.
        classes: Class names in label order.

    Returns:
        `confidence` (101 thresholds from 0 to 1, or to the highest score above 1) and, for all
        classes together, `precision` (None without detections), `recall` and `f1`; `classes`: class
        name -> these four numbers at the threshold with the highest F1, for the classes with
        objects. Empty without objects.
    """
    truth, detections = matches.truth, matches.detections
    matched = matches.matches_at_iou50
    is_matched = matched >= 0
    is_counted = ~(is_matched & np.append(truth.crowd, False)[matched])
    thresholds = np.linspace(0, max(1.0, float(detections.scores.max(initial=0))), 101)

    num_objects = np.bincount(truth.labels[~truth.crowd], minlength=len(classes))
    if not num_objects.sum():
        return {}
    order = np.argsort(detections.labels[is_counted], kind="stable")
    scores, hits = detections.scores[is_counted][order], is_matched[is_counted][order]
    bounds = np.searchsorted(detections.labels[is_counted][order], range(len(classes) + 1))

    def compute_rows(part: slice, total: int) -> NDArray[np.float64]:
        """Return `(101, 4)` threshold, precision, recall and F1 of some detections."""
        num_hits = _count_from(scores[part][hits[part]], thresholds)
        number = _count_from(scores[part], thresholds)
        precision = np.divide(num_hits, number, out=np.full(len(number), np.nan), where=number > 0)
        f1 = 2 * num_hits / (number + total)
        return np.stack((thresholds, precision, num_hits / total, f1), axis=1)

    names = ("confidence", "precision", "recall", "f1")
    rows = compute_rows(slice(None), int(num_objects.sum()))
    best = {}
    for label in np.flatnonzero(num_objects).tolist():
        part = slice(bounds[label], bounds[label + 1])
        class_rows = compute_rows(part, int(num_objects[label]))
        best_row = class_rows[class_rows[:, 3].argmax()].tolist()
        best[classes[label]] = dict(zip(names, map(nan_to_none, best_row), strict=True))
    columns = {
        name: [nan_to_none(value) for value in column.tolist()]
        for name, column in zip(names, rows.T, strict=True)
    }
    return {**columns, "classes": best}


def _count_from(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the scores that are at least each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def build_confusion_matrix(
    matches: Matches,
    find_pairs: Callable[[NDArray[np.int64]], Pairs],
    classes: Sequence[str],
) -> tuple[list[str], list[list[int]]]:
    """Build the confusion matrix at IoU 0.5 and scores of at least `SCORE`.

    In descending order of score, each detection is matched to the free object that it overlaps
    most, regardless of class. Unmatched detections are counted in the background row, missed
    objects in the background column; detections on crowds are excluded. hotcoco's matrix differs:
    it counts detections on crowds as background, orders equal scores by class, and limits the
    detections of the entire image instead of each class.

    Args:
        matches: Matches of all images.
        find_pairs: Function from rows of detections to their pairs with objects of any class; the
            detection indices of the pairs refer to the given rows.
        classes: Class names in label order.

    Returns:
        Labels (the classes, then `background`), and the matrix, ground truth by row, prediction by
        column.
    """
    truth, detections = matches.truth, matches.detections
    kept_indices = np.flatnonzero(detections.scores >= SCORE)
    pairs = find_pairs(matches.rows[kept_indices])
    labels, images = detections.labels[kept_indices], detections.images[kept_indices]
    rank = rank_within_groups(images, detections.scores[kept_indices])
    ignored = truth.crowd[:, None]
    greedy = match_greedily(pairs, rank, truth.crowd, ignored, thresholds=np.array([0.5]))
    matched_indices = greedy.get_first_matches(len(rank))
    is_missed = ~truth.crowd
    is_missed[matched_indices[matched_indices >= 0]] = False
    # One more object, of the class background, at index -1: the match of unmatched detections.
    truth_labels = np.append(truth.labels, len(classes))
    is_counted = ~np.append(truth.crowd, False)[matched_indices]
    matrix = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)
    np.add.at(matrix, (truth_labels[matched_indices[is_counted]], labels[is_counted]), 1)
    np.add.at(matrix[:, -1], truth.labels[is_missed], 1)
    return [*classes, BACKGROUND], matrix.tolist()


def score_images(matches: Matches, image_ids: Sequence[int | str]) -> list[dict[str, Any]]:
    """Compute the quality of each image's detections, and the confidence of its worst error.

    `quality` is F1 at scores of at least `SCORE` and IoU 0.5 (1 without objects and detections).
    `surprise` is the highest score of a detection without an object of its class, 0 if there is
    none.

    Args:
        matches: Matches of all images.
        image_ids: Image ids by rank.

    Returns:
        `{"image_id", "quality", "surprise"}` of each image.
    """
    truth, detections, number = matches.truth, matches.detections, len(image_ids)
    matched_indices = matches.matches_at_iou50
    on_crowd = np.zeros(len(matched_indices), np.bool_)
    on_crowd[matched_indices >= 0] = truth.crowd[matched_indices[matched_indices >= 0]]
    is_wrong = matched_indices < 0
    counted = (detections.scores >= SCORE) & ~on_crowd
    hits = np.bincount(detections.images[counted & ~is_wrong], minlength=number)
    num_detections = np.bincount(detections.images[counted], minlength=number)
    num_annotated = np.bincount(truth.images[~truth.crowd], minlength=number)
    total = num_detections + num_annotated
    quality = np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)
    surprise = np.zeros(number)
    np.maximum.at(surprise, detections.images[is_wrong], detections.scores[is_wrong])
    rows = zip(image_ids, quality.tolist(), np.clip(surprise, 0, 1).tolist(), strict=True)
    return [
        {"image_id": image_id, "quality": f1, "surprise": score} for image_id, f1, score in rows
    ]


def compute_error_types(run: Any) -> tuple[dict[str, float], list[str]]:
    """Compute the AP at IoU 0.5 lost to each error type (TIDE) with hotcoco.

    Args:
        run: hotcoco `COCOeval` that has matched its images.

    Returns:
        Error type -> AP gained if only this type were fixed; and a note on the method.
    """
    tide = run.tide_errors(pos_thr=0.5, bg_thr=0.1)
    lost = {name: float(tide["delta_ap"][name]) for name in ERROR_TYPES}
    note = (
        "Error types as in TIDE (Bolya et al., ECCV 2020), computed with hotcoco: increase in AP "
        "at IoU 0.5 (background below IoU 0.1) if only this type were fixed; crowds are ignored."
    )
    return lost, [note]
