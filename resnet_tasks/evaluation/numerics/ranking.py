"""Metrics of ranked scores, for many weightings of the same images at once, with exact ties.

Shape glossary: `P` images, `R` weightings (resampled datasets), `G` groups of equal scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.numerics.weighted_means import Floats, ratio


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Compute the area under the ROC curve.

    It is the probability that a positive image scores higher than a negative one. Pairs with equal
    scores count half (Hanley and McNeil 1982), so the result does not depend on the order of the
    images.

    Args:
        scores: `(P,)`.
        positive: `(P,)` bool.
        weights: `(R, P)`, at least 0.

    Returns:
        `(R,)`, 0..1; NaN if there is no positive or no negative image.
    """
    groups, members = _find_tie_groups(scores)
    positives, negatives = _sum_by_group(groups, members, positive, weights)
    below = np.cumsum(negatives, axis=0)
    below -= negatives / 2
    wins = np.einsum("gr,gr->r", positives, below)
    return ratio(wins, positives.sum(axis=0) * negatives.sum(axis=0))


def average_precision(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Compute the mean of the precision at every positive image, without interpolation.

    Images with equal scores enter the ranking together.

    Args:
        scores: `(P,)`.
        positive: `(P,)` bool.
        weights: `(R, P)`, at least 0.

    Returns:
        `(R,)`, 0..1; NaN if there is no positive image.
    """
    groups, members = _find_tie_groups(-scores)
    positives, negatives = _sum_by_group(groups, members, positive, weights)
    hits = np.cumsum(positives, axis=0)
    retrieved = hits + np.cumsum(negatives, axis=0)
    precision = np.divide(hits, retrieved, out=np.zeros_like(hits), where=retrieved > 0)
    return ratio(np.einsum("gr,gr->r", positives, precision), positives.sum(axis=0))


def _find_tie_groups(keys: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start of each group of equal keys in sorted order, and that order."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    return starts, order


def _sum_by_group(
    starts: NDArray[np.int64],
    order: NDArray[np.int64],
    positive: NDArray[np.bool_],
    weights: Floats,
) -> tuple[Floats, Floats]:
    """Sum the weights of the positive and of the negative images of each group, `(G, R)` each."""
    if not len(order):
        return np.zeros((0, len(weights))), np.zeros((0, len(weights)))
    ranked = weights.T[order]
    hits = ranked * positive[order][:, None]
    misses = ranked - hits
    if len(starts) == len(order):
        return hits, misses
    return np.add.reduceat(hits, starts, axis=0), np.add.reduceat(misses, starts, axis=0)
