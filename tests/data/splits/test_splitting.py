"""Splits: groups whole, classes alike, shares exact, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from resnet_tasks.data.coco.categories import Category, CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.splits.splitting import (
    Folds,
    assign_folds,
    count_objects_per_image,
    divide,
    find_groups,
)
from resnet_tasks.errors import DataError


def _departure(parts: np.ndarray, counts: np.ndarray, folds: int) -> float:
    """Mean over classes of the spread of their shares over the folds."""
    shares = np.stack([counts[parts == fold].sum(0) for fold in range(folds)]) / counts.sum(0)
    return float(shares.std(axis=0).mean())


def test_shares_without_groups_are_exact() -> None:
    parts = divide(range(10), [0.8, 0.2], seed=3)
    assert np.bincount(parts).tolist() == [8, 2]
    assert np.bincount(divide(range(103), [70, 20, 10])).tolist() == [72, 21, 10]
    assert sorted(np.bincount(assign_folds(range(11), 3))) == [3, 4, 4]


def test_the_seed_alone_decides() -> None:
    groups = [f"patient {i // 3}" for i in range(60)]
    made = [assign_folds(groups, 5, seed=seed).tolist() for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    sizes = [i for i in range(1, 20) for _ in range(i)]  # all groups of different sizes
    assert divide(sizes, [3, 1], seed=0).tolist() != divide(sizes, [3, 1], seed=1).tolist()


def test_classes_by_hand() -> None:
    # Four groups of two images; the rare class in two of them: one to each part.
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    counts = np.array([[1, 0]] * 4 + [[0, 1], [0, 0]] * 2, dtype=np.float64)
    for seed in range(10):
        parts = assign_folds(groups, 2, counts=counts, seed=seed)
        assert parts[0] == parts[1] != parts[2] == parts[3]
        assert parts[4] == parts[5] != parts[6] == parts[7]


def test_no_group_is_cut_and_classes_are_nearer_than_the_references() -> None:
    departures = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = rng.integers(0, 60, 400)
        # Classes cluster in groups: what a patient has.
        habit = rng.dirichlet([0.4, 0.3, 0.2, 0.1], 60)
        labels = np.array([rng.choice(4, p=habit[group]) for group in groups])
        counts = np.eye(4)[labels]
        parts = assign_folds(groups, 5, counts=counts, seed=seed)
        assert all(len(set(parts[groups == group])) == 1 for group in np.unique(groups))
        assert set(parts) == set(range(5))
        reference = np.zeros(len(groups), dtype=int)
        split = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(split.split(groups, labels, groups)):
            reference[held_out] = fold
        plain = assign_folds(groups, 5, seed=seed)
        departures.append([_departure(each, counts, 5) for each in (parts, reference, plain)])
    ours, theirs, without_classes = np.mean(departures, axis=0)
    assert ours <= theirs
    assert ours < without_classes / 3


def test_one_huge_group_leaves_no_part_empty() -> None:
    groups = ["huge"] * 97 + ["a", "b", "c"]
    parts = assign_folds(groups, 4)
    assert sorted(np.bincount(parts)) == [1, 1, 1, 97]


def test_mistakes() -> None:
    with pytest.raises(DataError, match=r"5 parts need at least 5 groups .* 4 images have 2"):
        assign_folds(["a", "a", "b", "b"], 5)
    with pytest.raises(DataError, match="needs at least 2 folds, got 1"):
        assign_folds(["a", "b"], 1)
    with pytest.raises(DataError, match=r"fractions are \[1, 0\]"):
        divide(["a", "b"], [1, 0])
    with pytest.raises(DataError, match="0 images have 0"):
        divide([], [1, 1])
    with pytest.raises(DataError, match="do not fit 2 images"):
        divide(["a", "b"], [1, 1], counts=np.zeros((3, 1)))


@pytest.fixture
def file() -> CocoFile:
    """Three images: two of patient 7, one of nobody; a dog, two cats (one a crowd)."""
    images = (
        ImageRecord(1, "a.png", 8, 8, group="7"),
        ImageRecord(2, "b.png", 8, 8),
        ImageRecord(3, "c.png", 8, 8, group="7"),
    )

    def annotation(number: int, image: int, category: int, *, crowd: bool = False) -> Annotation:
        return Annotation(number, image, category, (0, 0, 4, 4), 16, crowd)

    annotations = {
        1: (annotation(1, 1, 1),),
        2: (annotation(2, 2, 0), annotation(3, 2, 0, crowd=True)),
        3: (),
    }
    categories = CategoryMap((Category(4, "cat"), Category(9, "dog")))
    frozen = frozenset({"boxes"})
    return CocoFile(Path("d/a.json"), Path("d"), categories, images, annotations, frozen)


def test_groups_and_counts_of_files(file: CocoFile) -> None:
    # A second file on the same images, by another way to their folder, without groups.
    again = replace(
        file,
        images_root=Path("d/../d"),
        images=tuple(replace(each, group=None) for each in file.images),
        categories=CategoryMap((Category(9, "dog"), Category(11, "eel"))),
        annotations={1: (), 2: (Annotation(1, 2, 1, None, 0),), 3: ()},
    )
    keys = find_groups([file, again])
    assert keys == ["group 7", "file d/b.png", "group 7"] * 2
    merged = CategoryMap.merge([file.categories, again.categories])
    counts = count_objects_per_image([file, again], merged)
    assert counts.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_folds_of_files_cut_no_image_and_no_group(file: CocoFile) -> None:
    again = replace(file, images=file.images[1:2], annotations={2: ()})
    folds = Folds.from_files([file, again], 2)
    assert folds.fold[0] == folds.fold[2] != folds.fold[1] == folds.fold[3]
    of_patient = int(folds.fold[0])
    (alone,) = folds.select_fold(of_patient)
    assert [each.id for each in alone.images] == [1, 3]
    assert set(alone.annotations) == {1, 3}
    both = folds.exclude_fold(of_patient)
    assert [[each.id for each in part.images] for part in both] == [[2], [2]]
    assert (
        folds.digest
        == Folds.from_files([file, again], 2).digest
        != Folds.from_files([file], 2).digest
    )
    with pytest.raises(DataError, match="3 parts need at least 3 groups"):
        Folds.from_files([file, again], 3)
