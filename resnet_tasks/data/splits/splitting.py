"""Division of images into parts that keep groups together and have similar class frequencies.

Symbols: `N` images, `G` groups, `K` classes, `P` parts (folds, or train, val and test).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.errors import DataError

Counts = NDArray[np.float64]


def assign_folds(
    groups: Sequence[Hashable], folds: int, *, counts: Counts | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Return the fold `0..folds-1` of every image, with every group in a single fold.

    Args:
        groups: `(N,)` patient, study or sequence of every image; see `find_groups`.
        folds: Number of folds, at least 2.
        counts: `(N, K)` amount of each class in every image; see `divide`.
        seed: Seed for the order in which similar groups are placed.

    Raises:
        DataError: If there are fewer groups than folds, or fewer than two folds.
    """
    if folds < 2:
        raise DataError(f"cross-validation needs at least 2 folds, got {folds}")
    return divide(groups, [1.0] * folds, counts=counts, seed=seed)


def divide(
    groups: Sequence[Hashable],
    shares: Sequence[float],
    *,
    counts: Counts | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the part `0..P-1` of every image, for parts of given shares that keep groups together.

    Groups are placed greedily, each in the part where the sum of squared deviations from the shares
    grows least. The sum runs over the images and, with `counts`, over every class. Groups with a
    large share of the images or of a class come first, while there is still a choice. They are
    sorted by powers of two of their largest share and shuffled among equals. Without classes and
    groups, the parts have exactly the shares, rounded by Sainte-Laguë's rule.

    Args:
        groups: `(N,)` group of every image. Images with equal values stay together.
        shares: `(P,)` relative sizes of the parts, above 0. They need not sum to 1.
        counts: `(N, K)` amount of each class in every image (objects, pixels, or 1 and 0). All
            parts get similar shares of each class. None balances only the number of images.
        seed: Seed for the order in which similar groups are placed.

    Returns:
        `(N,)` int64 part of every image. Every part has at least one group.

    Raises:
        DataError: If there are fewer groups than parts, or a share is not above 0.
    """
    fractions = np.asarray(shares, dtype=np.float64)
    if (
        fractions.ndim != 1
        or len(fractions) < 2
        or not (np.isfinite(fractions) & (fractions > 0)).all()
    ):
        raise DataError(f"the fractions are {list(shares)}; pass two or more numbers above 0")
    members, load = _compute_group_loads(groups, counts)
    if len(load) < len(fractions):
        raise DataError(
            f"{len(fractions)} parts need at least {len(fractions)} groups (patients, sequences "
            f"or single images), but {len(groups)} images have {len(load)}; use fewer parts or "
            "more data"
        )
    order = _sort_groups(load, np.random.default_rng(seed))
    return _assign_parts(load, fractions / fractions.sum(), order)[members]


def find_groups(files: Sequence[CocoFile]) -> list[str]:
    """Return the group of every image: its `group`, or its file if it has none.

    The same image in two files (boxes in one, pixels in the other) is one group, and the name of a
    group has the same meaning in all files. A split of all files therefore has no image in two
    parts.

    Returns:
        `(N,)` group names in the order of the files and their images.
    """
    images = [
        (os.path.normpath(file.image_path(record)), record.group)
        for file in files
        for record in file.images
    ]
    group_by_path = {path: group for path, group in images if group is not None}
    return [
        f"group {group_by_path[path]}" if path in group_by_path else f"file {path}"
        for path, _ in images
    ]


def count_objects_per_image(files: Sequence[CocoFile], categories: CategoryMap) -> Counts:
    """Return the `(N, K)` number of objects and image labels of each category, without crowds.

    Pixels of semantic maps are not counted, because that requires reading all of them.

    Args:
        files: COCO files with the images, which are counted in this order.
        categories: Categories of the columns.

    Raises:
        DataError: If a file has a category that is not in `categories`.
    """
    counts = np.zeros((sum(len(file.images) for file in files), len(categories)))
    row = 0
    for file in files:
        columns = np.asarray([categories.id_to_index(i) for i in file.categories.ids], np.int64)
        annotations, single = file.annotations, ~file.annotations.crowd
        rows = row + annotations.image_positions[single]
        np.add.at(counts, (rows, columns[annotations.labels[single]]), 1)
        row += len(file.images)
    return counts


@dataclass(frozen=True)
class Folds:
    """Division of the images of several files into folds.

    Attributes:
        files: All files.
        groups: `(N,)` group of every image, in the order of the files.
        fold: `(N,)` int64 fold of every image.
    """

    files: tuple[CocoFile, ...]
    groups: tuple[str, ...]
    fold: NDArray[np.int64]

    @classmethod
    def from_files(cls, files: Sequence[CocoFile], folds: int, *, seed: int = 0) -> Folds:
        """Divide the images into folds with whole groups and similar shares of each category.

        Shares of categories are only balanced if objects are annotated.

        Args:
            files: COCO files, whose images are divided together. Groups may span several files.
            folds: Number of folds.
            seed: Seed for the order in which similar groups are placed.

        Raises:
            DataError: If there are fewer groups than folds.
        """
        groups = find_groups(files)
        counts = count_objects_per_image(
            files, CategoryMap.merge([file.categories for file in files])
        )
        return cls(
            tuple(files), tuple(groups), assign_folds(groups, folds, counts=counts, seed=seed)
        )

    @property
    def digest(self) -> str:
        """Hash that changes with the ids of the images, their order, or the fold of any image."""
        ids = (repr(record.id) for file in self.files for record in file.images)
        text = "\n".join(f"{i} {fold}" for i, fold in zip(ids, self.fold, strict=True))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def exclude_fold(self, fold: int) -> list[CocoFile]:
        """Return the files without the images of a fold, skipping files without other images."""
        return self._select_files(self.fold != fold)

    def select_fold(self, fold: int) -> list[CocoFile]:
        """Return the files with only the images of a fold, skipping files without such images."""
        return self._select_files(self.fold == fold)

    def _select_files(self, is_selected: NDArray[np.bool_]) -> list[CocoFile]:
        ends = np.cumsum([len(file.images) for file in self.files])
        parts = np.split(is_selected, ends[:-1])
        return [
            file.select_images(
                [record for record, is_in in zip(file.images, part, strict=True) if is_in]
            )
            for file, part in zip(self.files, parts, strict=True)
            if part.any()
        ]


def _compute_group_loads(
    groups: Sequence[Hashable], counts: Counts | None
) -> tuple[NDArray[np.int64], Counts]:
    """Return the `(N,)` group number of every image and the `(G, 1 + K)` loads of the groups.

    A load is the share of a group in all images and in each class. Groups are numbered in the order
    of their first image, so that nothing depends on how their names sort.
    """
    numbers: dict[Hashable, int] = {}
    members = np.array(
        [numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64
    )
    columns = np.ones((len(members), 1))
    if counts is not None:
        if counts.ndim != 2 or len(counts) != len(members):
            raise DataError(f"counts of shape {counts.shape} do not fit {len(members)} images")
        columns = np.concatenate((columns, counts), axis=1)
    load = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(load, members, columns)
    total = load.sum(axis=0)
    return members, load[:, total > 0] / total[total > 0]


def _sort_groups(load: Counts, random: np.random.Generator) -> NDArray[np.int64]:
    """Sort the groups by their largest share, descending, and shuffle those of similar shares."""
    shuffled = random.permutation(len(load))
    octave = np.floor(np.log2(load[shuffled].max(axis=1)))
    return shuffled[np.argsort(-octave, kind="stable")]


def _assign_parts(load: Counts, shares: Counts, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the `(G,)` part of every group."""
    filled = np.zeros((len(shares), load.shape[1]))
    parts = np.zeros(len(load), dtype=np.int64)
    empty = np.ones(len(shares), dtype=bool)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        # Growth of the sum over parts of filled^2 / share, which is minimal if every part has
        # exactly its share.
        growth = ((2 * filled + load[group]) * load[group]).sum(axis=1) / shares
        # The last groups are reserved for the empty parts, so that every part gets one.
        if left <= empty.sum():
            growth[~empty] = np.inf
        part = int(growth.argmin())
        parts[group] = part
        filled[part] += load[group]
        empty[part] = False
    return parts
