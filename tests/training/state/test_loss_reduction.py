"""Counts of loss terms over batches and processes, and their minimum."""

from __future__ import annotations

import torch

from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch
from resnet_tasks.training.state.loss_reduction import BatchReport, read_counts, sum_counts


def make_losses(total: float, count: float, min_count: float) -> dict[str, LossTerm]:
    return {"a/focal": LossTerm(torch.tensor(total), torch.tensor(count), min_count)}


def test_the_minimum_applies_to_the_sum_of_all_parts() -> None:
    empty, full = (read_counts(make_losses(3.0, count, 1.0)) for count in (0.0, 0.25))
    assert sum_counts([empty, empty]) == {"a/focal": 1.0}
    assert sum_counts([empty, full, full]) == {"a/focal": 1.0}
    assert sum_counts([empty, {"a/focal": (7.0, 1.0)}]) == {"a/focal": 7.0}
    # A process without labels for the head has no term; without a minimum, nothing is counted.
    assert sum_counts([{}, {"a/box": (0.0, 0.0)}]) == {"a/box": 0.0}
    assert sum_counts([]) == {}


def test_the_mean_of_a_batch_without_objects() -> None:
    batch = Batch(torch.zeros(0, 3, 1, 1), (), (), (), (), ())
    report = BatchReport.from_losses(make_losses(3.0, 0.0, 1.0), batch, stop=False)
    assert report.means == {"a/focal": 3.0}
