"""The order of the samples of an epoch, its batches, and the part of every process."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resnet_tasks.data.sampling.epoch_sampler import (
    EpochSampler,
    count_earlier_visits,
    sample_epoch_order,
)
from resnet_tasks.data.sampling.loaders import get_shard


def make_batches(length: int, batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    batches = EpochSampler().make_batches(length, batch_size, seed=seed, epoch=epoch)
    assert all(key == (epoch, key[1], 1.0, 0) for batch in batches for key in batch)
    return [[key[1] for key in batch] for batch in batches]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = sample_epoch_order(50, seed=3, epoch=4)
    assert sorted(order) == list(range(50))
    torch.manual_seed(99)
    assert sample_epoch_order(50, seed=3, epoch=4) == order
    assert sample_epoch_order(50, seed=3, epoch=5) != order
    assert sample_epoch_order(50, seed=4, epoch=4) != order


def test_one_process_sees_every_image_once() -> None:
    batches = make_batches(10, 4, seed=0, epoch=0)
    assert [len(each) for each in batches] == [4, 4, 2]
    assert [i for each in batches for i in each] == sample_epoch_order(10, seed=0, epoch=0)


@pytest.mark.parametrize(("length", "processes"), [(10, 2), (24, 3), (3, 4), (1, 2)])
def test_several_processes_cover_everything_in_equal_steps(length: int, processes: int) -> None:
    whole = make_batches(length, 2, seed=1, epoch=2)
    parts = [[get_shard(batch, i, processes) for batch in whole] for i in range(processes)]
    assert {len(part) for part in parts} == {-(-length // 2)}
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(length))


def test_global_batches_do_not_depend_on_the_number_of_processes() -> None:
    whole = make_batches(16, 4, seed=0, epoch=0)
    parts = [[get_shard(batch, i, 3) for batch in whole] for i in range(3)]
    joined = [[i for part in each for i in part] for each in zip(*parts, strict=True)]
    assert joined == whole
    assert all(1 <= len(batch) <= 2 for part in parts for batch in part)


def test_repeats_are_due_to_within_one_and_epochs_are_equally_long() -> None:
    repeats = np.array([0.5] * 5 + [1.0] * 4 + [2.0] * 3 + [1.3] * 10)
    total = np.zeros(len(repeats))
    for epoch in range(400):
        order = sample_epoch_order(len(repeats), seed=1, epoch=epoch, repeats=repeats)
        assert len(order) == round(repeats.sum()) == 26  # of 25.5
        visits = np.bincount(order, minlength=len(repeats))
        assert (visits >= np.floor(repeats)).all()
        assert (visits <= np.ceil(repeats)).all()
        assert 2 <= visits[:5].sum() <= 3
        total += visits
    assert order == sample_epoch_order(len(repeats), seed=1, epoch=399, repeats=repeats)
    assert np.abs(total / 400 - repeats).max() < 0.16  # all epochs are rounded up


@pytest.mark.parametrize("repeat", [0.001, 0.3, 1.0, 3.0])
def test_repeats_of_one_image(repeat: float) -> None:
    order = sample_epoch_order(1, seed=0, epoch=0, repeats=np.array([repeat]))
    assert order == [0] * max(1, round(repeat))


def test_earlier_visits_are_counted_over_the_epoch() -> None:
    assert count_earlier_visits([4, 4, 1, 1, 4]) == [0, 1, 0, 1, 2]


def test_keys_have_the_visits_of_the_epoch_and_selection_keeps_repeats() -> None:
    sampler = EpochSampler(np.array([2.0, 1.0, 3.0]), scales=(0.5, 2.0))
    keys = [key for batch in sampler.make_batches(3, 2, seed=4, epoch=5) for key in batch]
    visits = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert sorted((key[1], key[3]) for key in keys) == visits
    assert {key[2] for key in keys} <= {0.5, 2.0}
    order = sample_epoch_order(3, seed=4, epoch=5, repeats=sampler.repeats)
    assert [key[1] for key in keys] == order
    part = sampler.select([2, 0])
    assert part.repeats is not None
    assert part.repeats.tolist() == [3.0, 2.0]
    assert part.scales == (0.5, 2.0)
