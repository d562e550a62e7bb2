"""Pooling keeps its indices in half the bytes; its gradients stay the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.layers.efficiency.compact_max_pool import save_indices_as_int32
from resnet_tasks.runs.model_cost import measure_peak_bytes


def pooled(image: Tensor) -> Tensor:
    return F.max_pool2d(image, kernel_size=3, stride=2, padding=1)


def gradient_of(made: Tensor, image: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, made.numel()).view(made.shape)
    return torch.autograd.grad((made * weights).sum(), image)[0]


def test_gradients_are_the_same() -> None:
    image = torch.randn(2, 5, 33, 47, requires_grad=True)
    with save_indices_as_int32():
        made = pooled(image)
    plain = pooled(image)
    assert torch.equal(made, plain)
    assert torch.equal(gradient_of(made, image), gradient_of(plain, image))


def test_four_bytes_of_each_index_are_kept() -> None:
    image, device = torch.randn(2, 4, 64, 64, requires_grad=True), torch.device("cpu")

    def several(context: Callable[[], AbstractContextManager[object]]) -> None:
        kept = []
        for _ in range(8):
            with context():
                kept.append(pooled(image))

    plain, small = (
        measure_peak_bytes(partial(several, each), device)
        for each in (nullcontext, save_indices_as_int32)
    )
    indices = 2 * 4 * 32 * 32
    # Of eight; those of the last one are there in both sizes for a moment.
    assert plain - small == 8 * 4 * indices - 8 * indices


def test_a_stem_does_so() -> None:
    net, image = ResNet("test_resnet").train(), torch.rand(1, 3, 64, 64)
    found = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda kept: kept):
        net(image)
    assert torch.int64 not in found
