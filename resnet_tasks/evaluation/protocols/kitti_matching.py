"""KITTI's greedy matching of detections to objects, and the true and false positives at each score.

Shape glossary: `D` detections and `G` objects of one class and image.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.numerics.weighted_means import Floats


@dataclass
class Tally:
    """Counts of one class and level, accumulated over images.

    Attributes:
        objects: Number of objects that count, per image.
        hits: Rows of (score, image): best detection of every object that counts.
        steps: Rows of (score, true positives, false positives, image): counts added at that score.
    """

    objects: list[int] = field(default_factory=list)
    hits: list[tuple[float, int]] = field(default_factory=list)
    steps: list[tuple[float, int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class KittiImage:
    """Detections and objects of one class in one image.

    Attributes:
        scores: `(D,)`.
        is_small: `(D,)` bool, detections whose height is outside the range of the level.
        is_excused: `(D,)` bool, detections inside a DontCare region.
        hits: `(D, G)` overlaps above the threshold of the class, else 0.
        counts: `(G,)` bool, objects that count; the others can still be matched to a detection.
    """

    scores: Floats
    is_small: NDArray[np.bool_]
    is_excused: NDArray[np.bool_]
    hits: Floats
    counts: NDArray[np.bool_]


def add_to_tally(tally: Tally, scene: KittiImage, image: int) -> None:
    """Add one image to a tally."""
    tally.objects.append(int(scene.counts.sum()))
    tally.hits += [(score, image) for score in _find_best_hits(scene)]
    near = (scene.hits > 0).any(axis=1)
    lone = ~near & ~scene.is_small & ~scene.is_excused
    tally.steps += [(float(score), 0, 1, image) for score in scene.scores[lone]]
    if not near.any():
        return
    # The match of an object depends on the threshold, so matching is repeated at every score.
    ranked_candidates = _rank_candidates(scene)
    excused = (scene.is_small | scene.is_excused)[near]
    scores = scene.scores[near]
    before = (0, 0)
    for threshold in np.unique(scores)[::-1]:
        hits, matched_detections = _match_greedily(scene, ranked_candidates, float(threshold))
        present = scores >= threshold
        wrong = int((present & ~excused).sum()) - sum(
            not (scene.is_small[detection] or scene.is_excused[detection])
            for detection in matched_detections
        )
        step = (hits - before[0], wrong - before[1])
        if step != (0, 0):
            tally.steps.append((float(threshold), *step, image))
        before = (hits, wrong)


def _find_best_hits(scene: KittiImage) -> list[float]:
    """Return the scores at which counted objects are first found.

    Each object takes its best-scored free detection.
    """
    hit_scores: list[float] = []
    is_free = np.ones(len(scene.scores), np.bool_)
    for object_index, is_counted in enumerate(scene.counts):
        candidates = np.flatnonzero(is_free & (scene.hits[:, object_index] > 0))
        if not len(candidates):
            continue
        best_detection = candidates[np.argmax(scene.scores[candidates])]
        is_free[best_detection] = False
        if is_counted and not scene.is_small[best_detection]:
            hit_scores.append(float(scene.scores[best_detection]))
    return hit_scores


def _rank_candidates(scene: KittiImage) -> list[list[int]]:
    """Rank the detections that hit each object, in descending order of overlap.

    Detections that are too low to count come last.
    """
    ranked_candidates = []
    for overlap in scene.hits.T:
        candidates = np.flatnonzero(overlap > 0)
        low = scene.is_small[candidates]
        tall = candidates[~low]
        best_first = np.argsort(-overlap[tall], kind="stable")
        ranked_candidates.append([*tall[best_first].tolist(), *candidates[low].tolist()])
    return ranked_candidates


def _match_greedily(
    scene: KittiImage, ranked_candidates: list[list[int]], threshold: float
) -> tuple[int, set[int]]:
    """Return the number of true positives and all matched detections at a minimum score."""
    matched_detections: set[int] = set()
    hits = 0
    for candidates, is_counted in zip(ranked_candidates, scene.counts, strict=True):
        for candidate in candidates:
            if candidate not in matched_detections and scene.scores[candidate] >= threshold:
                matched_detections.add(candidate)
                hits += bool(is_counted and not scene.is_small[candidate])
                break
    return hits, matched_detections
