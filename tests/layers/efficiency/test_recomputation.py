"""What is made again gives the same, keeps less, and refuses inputs that changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.layers.efficiency.recomputation import apply_with_recomputation
from resnet_tasks.runs.model_cost import measure_peak_bytes


def grown(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat((F.interpolate(x, scale_factor=2.0), skip), dim=1)


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, skip = torch.randn(2, 8, 16, 16), torch.randn(2, 4, 32, 32)
    return x.requires_grad_(), skip.requires_grad_()


def layer() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(12, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_the_same(dtype: torch.dtype) -> None:
    found = []
    for is_made_again in (False, True):
        net, (x, skip) = layer(), inputs()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            given = (x * 1, skip * 1)
            made = (
                apply_with_recomputation(net, grown, *given)
                if is_made_again
                else net(grown(*given))
            )
        made.float().square().sum().backward()
        found.append([made, x.grad, skip.grad, *(each.grad for each in net.parameters())])
    for mine, yours in zip(*found, strict=True):
        assert mine is not None
        assert torch.equal(mine, yours)


def test_what_is_made_is_not_kept() -> None:
    net, (x, skip) = layer(), inputs()
    made_bytes, device = 2 * 12 * 32 * 32 * 4, torch.device("cpu")
    outputs: list[Tensor] = []
    several = [
        measure_peak_bytes(lambda: outputs.extend(net(grown(x, skip)) for _ in range(4)), device),
        measure_peak_bytes(
            lambda: outputs.extend(apply_with_recomputation(net, grown, x, skip) for _ in range(4)),
            device,
        ),
    ]
    assert several[0] - several[1] >= 2.9 * made_bytes


def test_inputs_that_changed_are_refused() -> None:
    x, skip = inputs()
    kept = x * 1
    made = apply_with_recomputation(layer(), grown, kept, skip)
    with torch.no_grad():
        kept += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        made.sum().backward()


def test_nothing_is_kept_without_a_graph() -> None:
    x, skip = inputs()
    net = layer()
    with torch.no_grad():
        made = apply_with_recomputation(net, grown, x, skip)
        assert torch.equal(made, net(grown(x, skip)))
    assert not made.requires_grad
