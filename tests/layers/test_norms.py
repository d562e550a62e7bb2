from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from resnet_tasks.layers.norms import batch_to_group_norm, batch_to_sync_norm, find_batch_norms


def two_norms() -> nn.Sequential:
    """A plain batch norm, and one of timm's with an activation inside, both with own values."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(8, eps=1e-3), BatchNormAct2d(8))
    for norm in find_batch_norms(net):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return net


@pytest.mark.parametrize("training", [False, True])
def test_shared_statistics_change_nothing_in_one_process(training: bool) -> None:
    plain, shared = two_norms(), two_norms()
    batch_to_sync_norm(shared)
    assert all(isinstance(each, nn.SyncBatchNorm) for each in shared)
    images = torch.randn(4, 8, 3, 3)
    assert torch.equal(plain.train(training)(images), shared.train(training)(images))
    assert list(plain.state_dict()) == list(shared.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(shared.state_dict()[key], value), key
    assert (shared(images) >= 0).all()


def test_group_norms_keep_scale_offset_and_inner_activation() -> None:
    plain, grouped = two_norms(), two_norms()
    batch_to_group_norm(grouped, lambda channels: 4)
    assert [type(each).__name__ for each in grouped] == ["GroupNorm", "GroupNormAct"]
    assert [each.num_groups for each in grouped] == [4, 4]
    assert grouped[0].eps == 1e-3
    for key, value in grouped.state_dict().items():
        assert torch.equal(plain.state_dict()[key], value), key
    images = torch.randn(4, 8, 3, 3)
    last = plain[1]
    inner = grouped[0](images)
    expected = nn.functional.group_norm(inner, 4, last.weight, last.bias, last.eps).relu()
    torch.testing.assert_close(grouped(images), expected)
