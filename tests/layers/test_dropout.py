"""What is dropped depends on the image's own seed and on nothing else."""

from __future__ import annotations

import pytest
import torch

from resnet_tasks.layers.dropout import SeededDropout, sample_channel_mask, sample_unit_mask


def test_channels_follow_the_seed_of_their_image() -> None:
    level = torch.zeros(3, 64, 2, 2)
    first = sample_channel_mask(level, 0.5, (7, 8, 7))
    assert first.shape == (3, 64, 1, 1)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    alone = sample_channel_mask(level[:1], 0.5, (8,))
    assert torch.equal(alone[0], first[1])


@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.9])
def test_so_many_channels_are_dropped_and_the_mean_stays(dropout: float) -> None:
    kept = sample_channel_mask(torch.zeros(1, 40_000, 1, 1), dropout, (3,))
    assert kept[kept > 0].unique().tolist() == [pytest.approx(1 / (1 - dropout))]
    assert float((kept == 0).float().mean()) == pytest.approx(dropout, abs=0.01)
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.1)


def test_units_follow_the_generator_of_their_image() -> None:
    def drawn(counts: list[int], seeds: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(each) for each in seeds]
        return sample_unit_mask(counts, generators, channels=32, dropout=0.5, like=torch.zeros(1))

    both = drawn([2, 3], [5, 6])
    assert both.shape == (5, 32)
    assert torch.equal(both[2:], drawn([3], [6]))
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(both[:2], drawn([2], [6]))
    assert set(both.unique().tolist()) == {0.0, 2.0}


def test_values_inside_a_network_follow_the_seed_of_their_image() -> None:
    layer, values = SeededDropout(0.25), torch.ones(3, 8, 20, 20)
    assert torch.equal(layer(values), values)  # without seeds
    with layer.use_seeds((7, 8, 7)):
        dropped = layer(values)
        assert torch.equal(dropped[0], dropped[2])
        assert not torch.equal(dropped[0], dropped[1])
        torch.manual_seed(99)
        assert torch.equal(layer(values), dropped)
        assert torch.equal(layer.eval()(values), values)
    assert torch.equal(layer.train()(values), values)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert dropped[dropped > 0].unique().tolist() == [pytest.approx(4 / 3)]
