"""Curves of resampled datasets equal a slow evaluation, detection by detection."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco import bootstrap_ap, precision_curves
from resnet_tasks.evaluation.coco.bootstrap_ap import CocoResampler
from resnet_tasks.evaluation.coco.matching import (
    Matches,
    Objects,
    compute_size_membership,
    find_box_pairs,
    match_detections,
)

LIMITS = (1, 3, 20)
NUM_IMAGES = 12


def create_matches(seed: int) -> Matches:
    """Matches with equal scores, crowds, several detections per object and all sizes."""
    rng = np.random.default_rng(seed)
    number = 60
    images, labels = rng.integers(0, NUM_IMAGES, number), rng.integers(0, 3, number)
    low, size = rng.integers(0, 300, (number, 2)), np.exp(rng.uniform(2, 5, (number, 2)))
    boxes = np.concatenate((low, size), axis=1)
    crowd, zeros = rng.random(number) < 0.1, np.zeros(number)
    truth = Objects(images, labels, boxes[:, 2] * boxes[:, 3] * 0.8, zeros, crowd)
    source = rng.integers(0, number, 400)
    moved = boxes[source] + rng.normal(0, 0.1, (400, 4)) * np.tile(size[source], 2)
    moved[:, 2:] = moved[:, 2:].clip(2, None)
    is_other = rng.random(400) < 0.3
    detections = Objects(
        np.where(is_other, rng.integers(0, NUM_IMAGES, 400), images[source]),
        labels[source],
        moved[:, 2] * moved[:, 3],
        np.round(rng.random(400), 1),
        np.zeros(400, np.bool_),
    )
    keys = (detections.images * 3 + detections.labels, truth.images * 3 + truth.labels)
    pairs = find_box_pairs(moved, boxes, crowd, keys=keys)
    return match_detections(truth, detections, pairs, limit=LIMITS[-1])


def evaluate_slowly(
    matches: Matches, counts: NDArray[np.int64], label: int, cell: tuple[int, int]
) -> tuple[float, list[float]]:
    """Compute average precision and recalls of one class in one cell, copy by copy."""
    threshold, size = cell
    truth, detections = matches.truth, matches.detections
    is_own = (truth.labels == label) & matches.is_counted[:, size]
    total = int(counts[truth.images[is_own]].sum())
    if not total:
        return np.nan, [np.nan] * len(LIMITS)
    matched = np.full(len(matches.rank), -1)
    matched[matches.greedy.detection_indices] = matches.greedy.truth_indices[:, threshold, size]
    in_range = compute_size_membership(detections.areas)[:, size]
    keys = (matches.rank, detections.images, -detections.scores)
    true = false = 0
    curve, recalled = [], [0] * len(LIMITS)
    for i in np.lexsort(keys).tolist():
        if detections.labels[i] != label:
            continue
        is_hit = matched[i] >= 0 and matches.is_counted[matched[i], size]
        for _ in range(counts[detections.images[i]]):
            if is_hit:
                true += 1
                for position, limit in enumerate(LIMITS):
                    recalled[position] += int(matches.rank[i] < limit)
            elif matched[i] < 0 and in_range[i]:
                false += 1
            else:
                continue
            curve.append((true / total, true / (true + false)))
    levels = np.linspace(0, 1, 101)
    precisions = [max((p for r, p in curve if r >= level), default=0.0) for level in levels]
    return float(np.mean(precisions)), [hits / total for hits in recalled]


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_curves_equal_a_slow_evaluation(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of detections and datasets, and 64 instead of 32 bits, change nothing."""
    monkeypatch.setattr(precision_curves, "ROWS_AT_ONCE", rows)
    if rows == 1:
        monkeypatch.setattr(bootstrap_ap, "_LARGEST_EXACT", 1)
        monkeypatch.setattr(bootstrap_ap, "_DATASETS_AT_ONCE", 2)
    matches = create_matches(rows)
    rng = np.random.default_rng(rows)
    counts = rng.multinomial(NUM_IMAGES, np.full(NUM_IMAGES, 1 / NUM_IMAGES), 3)
    counts[2, : NUM_IMAGES - 2] = 0  # Some classes and sizes are missing.
    order = rng.permutation(NUM_IMAGES)
    columns = np.empty_like(counts)
    columns[:, order] = counts
    found = CocoResampler(matches, NUM_IMAGES, 4, LIMITS).resample(columns, order)
    num_undefined = 0
    for row, dataset in enumerate(counts):
        for label in range(3):
            expected = [
                [evaluate_slowly(matches, dataset, label, (t, size)) for t in range(10)]
                for size in range(4)
            ]
            precision = np.array([[ap for ap, _ in by_size] for by_size in expected])
            recall = np.array([[recalls for _, recalls in by_size] for by_size in expected])
            values = {"AP": precision[0].mean(), "AP50": precision[0, 0], "AP75": precision[0, 5]}
            values |= {f"AR_{m}": recall[0, :, i].mean() for i, m in enumerate(LIMITS)}
            for size, name in enumerate(("small", "medium", "large"), start=1):
                values |= {
                    f"AP_{name}": precision[size].mean(),
                    f"AR_{name}": recall[size, :, -1].mean(),
                }
            assert values.keys() == found.keys()
            for name, value in values.items():
                num_undefined += np.isnan(value)
                assert found[name][row, label] == pytest.approx(value, abs=1e-14, nan_ok=True)
    assert num_undefined
    assert found["AP50"][:2, :3].min() > 0.05
    assert all(np.isnan(values[:, 3]).all() for values in found.values())


def test_recall_exactly_at_a_level_is_reached_as_in_pycocotools() -> None:
    """41 of 100 is below `np.linspace(0, 1, 101)[41]`, which is one bit larger than 0.41."""
    recalls = np.arange(101)[:, None] / 100
    reached = precision_curves._count_levels_reached(recalls)[:, 0]
    assert reached.tolist() == [int((r >= precision_curves.RECALLS).sum()) for r in recalls[:, 0]]
    assert reached[41] == 41
    assert reached[42] == 43
