"""How often images with rare classes come, and how much rare classes weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

BETA = 0.9999
"""Cui et al. 2019, the largest that they try: for thousands of images of a class."""


@dataclass
class ClassCounts:
    """How often the classes of a head come in training data.

    Attributes:
        number: Of classes.
        labels: `(K,)` labels of each class: pixels, or images where these are labeled as wholes.
        images: `(K,)` images that show it.
        around: `(K,)` labels of any class on those images.
    """

    number: int
    labels: Values = field(init=False)
    images: Values = field(init=False)
    around: Values = field(init=False)

    def __post_init__(self) -> None:
        self.labels, self.images, self.around = (np.zeros(self.number) for _ in range(3))

    def add(self, labels: NDArray[np.int64], weight: float = 1.0) -> None:
        """Takes the labels of one image; those below 0 do not count.

        Args:
            labels: Of any shape.
            weight: How often the image comes in an epoch.
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
"""Ways to weigh classes by how often they come."""


def compute_class_weights(name: str, counts: ClassCounts) -> list[float]:
    """`(K,)` weights of the classes, with a mean of 1; a class that never comes weighs 1.

    Args:
        name: One of `NAMED_WEIGHTS`.
        counts: Of the training data.
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


def compute_repeat_factors(
    image_indices: NDArray[np.int64],
    categories: NDArray[np.int64],
    *,
    images: int,
    threshold: float,
) -> NDArray[np.float64]:
    """`(P,)` how often each image comes per epoch, at least 1.

    Gupta et al. 2019 (LVIS), section 4.2: of class c, shown by the share f of all images, r(c) is
    max(1, sqrt(t / f)); an image gets the greatest of its classes, 1 where it shows none.

    Args:
        image_indices: Image 0..P-1 of every (image, class) pair that occurs; each pair once.
        categories: Class of the pair.
        images: P.
        threshold: t, a share of images.
    """
    factors = np.ones(images)
    if len(image_indices):
        shares = np.bincount(categories) / images
        with np.errstate(divide="ignore"):
            of_class = np.maximum(1.0, np.sqrt(threshold / shares))
        np.maximum.at(factors, image_indices, of_class[categories])
    return factors
