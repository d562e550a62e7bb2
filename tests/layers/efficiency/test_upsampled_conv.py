"""Convolving a doubled map without doubling it: the same numbers, for less work."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from resnet_tasks.heads.semantic import unet
from resnet_tasks.layers.efficiency.upsampled_conv import (
    can_double,
    convolve_upsampled,
    make_summed_filters,
)
from resnet_tasks.testing.random_batches import random_features, resnet_specs


def plainly(x: Tensor, skip: Tensor | None, filters: Tensor, bias: Tensor | None) -> Tensor:
    grown = F.interpolate(x, scale_factor=2.0, mode="nearest")
    both = grown if skip is None else torch.cat((grown, skip), dim=1)
    return F.conv2d(both, filters, bias, padding=1)


def doubled(x: Tensor, skip: Tensor | None, filters: Tensor, bias: Tensor | None) -> Tensor:
    return convolve_upsampled(x, skip, make_summed_filters(filters, bias, x.shape[1]))


def inputs(dtype: torch.dtype, *, with_skip: bool, height: int = 5) -> list[Tensor | None]:
    torch.manual_seed(0)
    shapes = [(2, 6, height, 7), (2, 3, 2 * height, 14) if with_skip else None]
    shapes += [(4, 9 if with_skip else 6, 3, 3), (4,)]
    return [
        None if shape is None else torch.randn(shape, dtype=dtype).requires_grad_()
        for shape in shapes
    ]


def test_one_cell_by_hand() -> None:
    # A cell of 1 becomes four pixels; the filter 1..9, rows first, sees of them at the upper left
    # pixel its taps 5 6 8 9, to the right 4 5 7 8, below 2 3 5 6, at the lower right 1 2 4 5.
    filters = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    made = doubled(torch.ones(1, 1, 1, 1), None, filters, torch.tensor([0.5]))
    assert made.tolist() == [[[[28.5, 24.5], [16.5, 12.5]]]]


@pytest.mark.parametrize("with_skip", [True, False])
@pytest.mark.parametrize("height", [1, 5])
def test_values_and_gradients(with_skip: bool, height: int) -> None:
    found = []
    for convolve in (plainly, doubled):
        given = inputs(torch.float64, with_skip=with_skip, height=height)
        made = convolve(*given)
        made.sin().sum().backward()
        found.append([made, *(each.grad for each in given if each is not None)])
    for mine, yours in zip(*found, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-12, rtol=1e-12)


def test_bf16_is_as_near_to_full_precision() -> None:
    given = [each.detach() for each in inputs(torch.float32, with_skip=True) if each is not None]
    wanted = plainly(*given)
    with torch.autocast("cpu", torch.bfloat16):
        apart = [(each(*given).float() - wanted).norm() for each in (plainly, doubled)]
    assert 0 < apart[1] <= 1.5 * apart[0]


def test_a_cell_takes_16_products_in_the_place_of_36() -> None:
    x, _, filters, bias = inputs(torch.float32, with_skip=False)
    with FlopCounterMode(display=False) as plain:
        plainly(x, None, filters, bias)
    with FlopCounterMode(display=False) as ours:
        doubled(x, None, filters, bias)
    assert ours.get_total_flops() * 36 == plain.get_total_flops() * 16


def test_not_used_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    x, filters = torch.zeros(1, 2, 4, 6), torch.zeros(3, 2, 3, 3)
    assert can_double(x, (8, 12), filters)
    assert not can_double(x, (4, 6), filters)  # a dilated backbone
    assert not can_double(x, (8, 11), filters)
    assert not can_double(x, (8, 12), torch.zeros(3, 2, 1, 1))
    assert not can_double(x.to("meta"), (8, 12), filters)
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    assert not can_double(x, (8, 12), filters)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_a_whole_decoder(norm: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded norms included: in evaluation the filters hold them."""
    specs = resnet_specs(8)
    features = random_features(specs, padded_size=(192, 320))
    features = {level: each.double() for level, each in features.items()}
    torch.manual_seed(0)
    options = {"norm": norm, "decoder_channels": (32, 24, 16, 16, 8)}
    head = unet.UNet(specs, ["a", "b", "c"], options).double()
    head.train()(features)  # statistics to fold
    head.train(training)
    used, found = [], []

    def counted(*args: object) -> Tensor:
        used.append(1)
        return convolve_upsampled(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(unet, "convolve_upsampled", counted)
    for is_plain in (False, True):
        if is_plain:
            monkeypatch.setattr(unet, "can_double", lambda *_: False)
        head.zero_grad()
        logits = head(features)["logits"]
        logits.sin().sum().backward()
        gradients = [each.grad.clone() for each in head.parameters() if each.grad is not None]
        found.append([logits, *gradients])
    assert len(used) == 5  # blocks
    for mine, yours in zip(*found, strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-9, rtol=1e-9)
