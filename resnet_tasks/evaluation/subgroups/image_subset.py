"""Evaluator restricted to some of its images, without a second evaluation.

Shape glossary: `R` datasets, `P` images of the evaluator, `S` images of the subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.uncertainty.bootstrap import COUNTS_AT_ONCE
from resnet_tasks.structures.evaluation import Metric, ResamplableEvaluator


class ImageSubset:
    """View of an evaluator in which all other images occur 0 times.

    It is a `ResamplableEvaluator` itself, so that intervals are computed as for all images.

    Args:
        evaluator: Evaluator with all images.
        metrics: Metric name -> metric of all images, whose names, classes and units are kept.
        positions: `(S,)` positions of the images of the subset in `evaluator.image_ids`.
    """

    def __init__(
        self,
        evaluator: ResamplableEvaluator,
        metrics: Mapping[str, Metric],
        positions: NDArray[np.int64],
    ) -> None:
        self._evaluator = evaluator
        self._metrics = metrics
        self._positions = positions
        self._num_images = len(evaluator.image_ids)

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images of the subset, in the order of the columns of `resample`."""
        ids = self._evaluator.image_ids
        return tuple(ids[position] for position in self._positions.tolist())

    def compute(self) -> dict[str, Metric]:
        """Compute the metrics of the subset; None if the subset has no such object."""
        values = self.resample(np.ones((1, len(self._positions)), np.int64))
        return {
            name: replace(
                metric,
                value=_get_value(values, name),
                per_class={
                    label: _get_value(values, f"{name}/{label}") for label in metric.per_class
                },
                interval=None,
                per_class_interval={},
            )
            for name, metric in self._metrics.items()
            if name in values
        }

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Compute the metrics of resampled datasets.

        Args:
            counts: `(R, S)` number of times each image of the subset occurs.

        Returns:
            `metric` and `metric/class` -> `(R,)` values, NaN where undefined.
        """
        at_once = max(1, COUNTS_AT_ONCE // max(self._num_images, 1))
        starts = range(0, max(len(counts), 1), at_once)
        parts = [self._resample_rows(counts[start : start + at_once]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _resample_rows(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        all_counts = np.zeros((len(counts), self._num_images), np.int64)
        all_counts[:, self._positions] = counts
        return self._evaluator.resample(all_counts)


def find_positions(
    image_ids: Sequence[int | str], subgroups: Mapping[int | str, str]
) -> dict[str, NDArray[np.int64]]:
    """Return subgroup -> positions of its images.

    Args:
        image_ids: Ids of the images of an evaluator.
        subgroups: Image id -> subgroup, for all of these images.
    """
    positions: dict[str, list[int]] = {}
    for position, image_id in enumerate(image_ids):
        positions.setdefault(subgroups[image_id], []).append(position)
    return {name: np.asarray(rows, np.int64) for name, rows in positions.items()}


def _get_value(values: Mapping[str, NDArray[np.float64]], name: str) -> float | None:
    column = values.get(name)
    return None if column is None or np.isnan(column[0]) else float(column[0])
