"""Repeat factors for images with rare classes, and class weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile

Values = NDArray[np.float64]

BETA = 0.9999
"""Largest value in Cui et al. 2019, suitable for thousands of images per class."""


@dataclass
class ClassCounts:
    """Frequencies of a head's classes in the training data.

    Attributes:
        number: Number of classes.
        labels: `(K,)` float64 number of labels of each class: pixels, or images for image-level
            labels.
        images: `(K,)` float64 number of images with the class.
        around: `(K,)` float64 number of labels of all classes in those images.
    """

    number: int
    labels: Values = field(init=False)
    images: Values = field(init=False)
    around: Values = field(init=False)

    def __post_init__(self) -> None:
        self.labels, self.images, self.around = (np.zeros(self.number) for _ in range(3))

    def add(self, labels: NDArray[np.int64], weight: float = 1.0) -> None:
        """Add the labels of one image, ignoring those below 0.

        Args:
            labels: Labels, an array of any shape.
            weight: Number of times the image occurs in an epoch.
        """
        counts = np.bincount(labels[labels >= 0].ravel(), minlength=self.number)
        self.labels += weight * counts
        self.images += weight * (counts > 0)
        self.around += weight * counts.sum() * (counts > 0)


def _weight_by_effective_number(counts: ClassCounts) -> Values:
    return (1 - BETA) / (1 - BETA**counts.images)


def _weight_by_median_frequency(counts: ClassCounts) -> Values:
    shares = counts.labels / counts.around
    return np.asarray(np.median(shares) / shares)


NAMED_WEIGHTS: dict[str, Callable[[ClassCounts], Values]] = {
    "balanced": lambda counts: 1 / counts.labels,
    "inverse_sqrt": lambda counts: 1 / np.sqrt(counts.labels),
    "median_frequency": _weight_by_median_frequency,  # Eigen and Fergus 2015, section 6.3
    "effective_number": _weight_by_effective_number,  # Cui et al. 2019, section 4
}
"""Methods to compute class weights from class frequencies."""


def compute_class_weights(name: str, counts: ClassCounts) -> list[float]:
    """Return the `(K,)` class weights with a mean of 1; an absent class has weight 1.

    Args:
        name: Key of `NAMED_WEIGHTS`.
        counts: Class frequencies of the training data.
    """
    present = counts.labels > 0
    present_counts = ClassCounts(int(present.sum()))
    for field_name in ("labels", "images", "around"):
        setattr(present_counts, field_name, getattr(counts, field_name)[present])
    weights = np.ones(counts.number)
    if present.any():
        values = NAMED_WEIGHTS[name](present_counts)
        weights[present] = values / values.mean()
    return [float(f"{weight:.6g}") for weight in weights]


def compute_repeats(
    files: Sequence[CocoFile],
    *,
    weights: Sequence[float] | None = None,
    threshold: float | None = None,
) -> Values | None:
    """Return the `(N,)` number of times each image occurs per epoch; None: each occurs once.

    Args:
        files: COCO files with the same categories; their images follow each other.
        weights: Number of times, per file, that each of its images occurs, above 0; None: once.
        threshold: Fraction of images below which a class is rare, in (0, 1], so that images with it
            occur more often (`compute_repeat_factors`); None: no class is rare.
    """
    counts = [len(file.images) for file in files]
    repeats = None if weights is None else np.repeat(np.asarray(weights, np.float64), counts)
    if threshold is None:
        return repeats
    pairs = [file.annotations.list_image_categories() for file in files]
    starts = np.cumsum([0, *counts])
    factors = compute_repeat_factors(
        np.concatenate([start + rows for start, (rows, _) in zip(starts, pairs, strict=False)]),
        np.concatenate([categories for _, categories in pairs]),
        images=sum(counts),
        threshold=threshold,
    )
    return factors if repeats is None else repeats * factors


def compute_repeat_factors(
    image_indices: NDArray[np.int64],
    categories: NDArray[np.int64],
    *,
    images: int,
    threshold: float,
) -> NDArray[np.float64]:
    """Return the `(P,)` number of times each image occurs per epoch, at least 1.

    Gupta et al. 2019 (LVIS), section 4.2: a class c in the fraction f of all images has r(c) =
    max(1, sqrt(t / f)). An image has the maximum over its classes, or 1 without objects.

    Args:
        image_indices: `(S,)` image 0..P-1 of every (image, class) pair, each pair once.
        categories: `(S,)` class of each pair.
        images: Number of images P.
        threshold: Threshold t, a fraction of images.
    """
    factors = np.ones(images)
    if len(image_indices):
        shares = np.bincount(categories) / images
        with np.errstate(divide="ignore"):
            of_class = np.maximum(1.0, np.sqrt(threshold / shares))
        np.maximum.at(factors, image_indices, of_class[categories])
    return factors
