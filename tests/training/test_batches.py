"""Batches of an epoch: their order, their groups, and the parts of processes."""

from __future__ import annotations

import pytest
import torch

from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.runtime.processes import DistributedContext
from resnet_tasks.training.batches import EpochBatches, StepBatches
from resnet_tasks.training.state.progress import RunLength
from tests.support.shapes import Shapes

CPU = torch.device("cpu")
OPTIONS = TrainingRecipe(epochs=3, batch_size=3, accumulation=2, device="cpu")
SEVEN = Shapes(7, (32, 64))


def ids(groups: list[StepBatches]) -> list[list[list[int | str]]]:
    return [[list(batch.image_ids) for batch in group.batches] for group in groups]


def test_lengths_round_up() -> None:
    made = EpochBatches(SEVEN, OPTIONS, device=CPU)
    assert made.length == RunLength(batches_per_epoch=3, updates_per_epoch=2, updates=6)
    assert made.workers == 0  # a CPU trains with all its cores
    assert EpochBatches(SEVEN, OPTIONS, device=CPU, workers=2).workers == 2


def test_every_image_comes_once_in_an_order_of_seed_and_epoch() -> None:
    made = EpochBatches(SEVEN, OPTIONS, device=CPU)
    keys = made.compute_keys(0)
    assert list(map(len, keys)) == [3, 3, 1]
    assert sorted(key for batch in keys for key in batch) == list(range(7))
    assert made.compute_keys(0) == keys
    assert made.compute_keys(1) != keys
    other = OPTIONS.model_copy(update={"seed": 1})
    assert EpochBatches(SEVEN, other, device=CPU).compute_keys(0) != keys


def test_groups_are_the_keys_in_order_and_count_images() -> None:
    made = EpochBatches(SEVEN, OPTIONS, device=CPU)
    first, second, third = made.compute_keys(1)
    groups = list(made.iter_steps(1))
    assert ids(groups) == [[first, second], [third]]
    assert [group.images for group in groups] == [6, 1]


def test_an_epoch_is_entered_where_it_was_left() -> None:
    made = EpochBatches(SEVEN, OPTIONS, device=CPU)
    whole = list(made.iter_steps(0))
    assert ids(list(made.iter_steps(0, start=2))) == ids(whole[1:])
    assert ids(list(made.iter_steps(0, stop=2))) == ids(whole[:1])
    assert list(made.iter_steps(0, start=3)) == []


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_every_batch(count: int) -> None:
    alone = EpochBatches(SEVEN, OPTIONS, device=CPU)
    parts = [
        list(
            EpochBatches(
                SEVEN, OPTIONS, device=CPU, processes=DistributedContext(index=index, count=count)
            ).iter_steps(0)
        )
        for index in range(count)
    ]
    for number, group in enumerate(alone.iter_steps(0)):
        assert {part[number].images for part in parts} == {group.images}
        for place, batch in enumerate(group.batches):
            shared = [part[number].batches[place] for part in parts]
            known = [
                image_id
                for each in shared
                for image_id, target in zip(each.image_ids, each.targets, strict=True)
                if target.boxes is not None  # a process without images has one that teaches nothing
            ]
            assert known == list(batch.image_ids)
