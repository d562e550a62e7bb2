"""Rare classes come more often: repeat factors by hand, and how they reach an epoch."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.sampling.epoch_sampler import EpochSampler
from resnet_tasks.data.sampling.rare_classes import (
    NAMED_WEIGHTS,
    ClassCounts,
    compute_class_weights,
    compute_repeat_factors,
    compute_repeats,
)


def test_repeat_factors_by_hand() -> None:
    # Of 8 images 4 show class 0, 1 shows class 1, none shows class 2; threshold 1/2.
    places, categories = np.asarray([0, 1, 2, 3, 3]), np.asarray([0, 0, 0, 0, 1])
    found = compute_repeat_factors(places, categories, images=8, threshold=0.5)
    assert found.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]  # sqrt((1/2) / (1/8)) = 2
    lower = compute_repeat_factors(places, categories, images=8, threshold=0.25)
    assert lower.tolist() == pytest.approx([1, 1, 1, math.sqrt(2), 1, 1, 1, 1])
    nothing = np.zeros(0, np.int64)
    assert compute_repeat_factors(nothing, nothing, images=2, threshold=1.0).tolist() == [1, 1]


def rare(folder: Path) -> CocoFile:
    """100 images: all show class a, two of them a b, another a crowd of b."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in range(100)]
    box = {"bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}
    objects = [{"id": i, "image_id": i, "category_id": 1, **box} for i in range(100)]
    objects.append({"id": 100, "image_id": 7, "category_id": 2, **box})
    objects.append({"id": 102, "image_id": 9, "category_id": 2, **box})
    objects.append({"id": 101, "image_id": 8, "category_id": 2, **box, "iscrowd": 1})
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    text = {"images": images, "annotations": objects, "categories": categories}
    folder.mkdir(exist_ok=True)
    (folder / "data.json").write_text(json.dumps(text))
    return read_coco(folder / "data.json")


def test_images_with_rare_classes_come_more_often(tmp_path: Path) -> None:
    repeats = compute_repeats([rare(tmp_path)], threshold=0.125)  # sqrt(0.125 / 0.02) = 2.5
    assert repeats is not None
    assert repeats[[7, 9]].tolist() == pytest.approx([2.5, 2.5])
    assert np.delete(repeats, [7, 9]).tolist() == [1.0] * 98
    sampler, seen = EpochSampler(repeats), []
    for epoch in range(40):
        batches = sampler.make_batches(100, 8, seed=3, epoch=epoch)
        assert batches == sampler.make_batches(100, 8, seed=3, epoch=epoch)
        counts = Counter(key[1] for batch in batches for key in batch)
        assert sum(counts.values()) == 103  # as many in every epoch
        assert counts[7] in (2, 3)
        seen.append(counts[7])
    assert np.mean(seen) == pytest.approx(2.5, abs=0.3)


def test_two_files_count_together_and_weights_of_sources_multiply(tmp_path: Path) -> None:
    files = [rare(tmp_path / name) for name in ("one", "two")]
    assert compute_repeats(files) is None
    found = compute_repeats(files, weights=[1.0, 3.0])
    assert found is not None
    assert found.tolist() == [1.0] * 100 + [3.0] * 100
    found = compute_repeats(files, weights=[1.0, 3.0], threshold=0.125)
    assert found is not None
    assert found[[7, 107]].tolist() == pytest.approx([2.5, 7.5])
    assert found[[8, 108]].tolist() == [1.0, 3.0]


def counted() -> ClassCounts:
    """Classes 0 and 1 come together in one image, 0 alone in another; 2 never comes."""
    counts = ClassCounts(3)
    counts.add(np.asarray([[0, 0, 0], [1, -1, -1]]))
    counts.add(np.asarray([0, 0, 0, 0, 0]))
    return counts


def test_counts_by_hand() -> None:
    counts = counted()
    assert counts.labels.tolist() == [8, 1, 0]
    assert counts.images.tolist() == [2, 1, 0]
    assert counts.around.tolist() == [9, 4, 0]  # labels on the images that show it
    counts.add(np.asarray([2, 2]), weight=1.5)
    assert counts.labels.tolist() == [8, 1, 3]
    assert counts.images.tolist() == [2, 1, 1.5]


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("balanced", 8.0),
        ("inverse_sqrt", math.sqrt(8)),
        ("median_frequency", (8 / 9) / (1 / 4)),
        ("effective_number", 1 + 0.9999),  # (1 - b^2) / (1 - b), of images
    ],
)
def test_weights_by_hand(name: str, ratio: float) -> None:
    weights = compute_class_weights(name, counted())
    assert weights[1] / weights[0] == pytest.approx(ratio, rel=1e-4)
    assert weights[0] + weights[1] == pytest.approx(2, abs=1e-4)  # a mean of 1
    assert weights[2] == 1


def test_equal_classes_weigh_the_same() -> None:
    counts = ClassCounts(2)
    counts.add(np.asarray([0, 1]))
    assert all(compute_class_weights(name, counts) == [1, 1] for name in NAMED_WEIGHTS)
    assert compute_class_weights("balanced", ClassCounts(2)) == [1, 1]  # nothing was seen
