"""Batch norms that accept a single value per channel in training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.layers.folded_norms import FoldedBatchNorm2d


def accept_single_values(module: nn.Module) -> None:
    """Let the batch norms of a module accept a single value per channel in training.

    A branch that pools the whole map gives one value per channel and image, and so does a map of
    one cell. In a batch of one image, the variance of a single value is not defined, and torch
    raises an error. Such an input is normalized by the running statistics instead, which it does
    not change. Larger inputs are treated as usual.

    Args:
        module: Module to change, in place, after its norms were folded. Parameters, buffers and
            the keys of the state dict stay as they are.
    """
    for norm in module.modules():
        # The class is changed in place, so that parameters, hooks and state dict keys survive.
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = _BatchNorm2d
        elif type(norm) is FoldedBatchNorm2d:
            norm.__class__ = _FoldedBatchNorm2d


class _BatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return (
            _apply_running_statistics(self, input)
            if _is_single(self, input)
            else super().forward(input)
        )


class _FoldedBatchNorm2d(FoldedBatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        return (
            _apply_running_statistics(self, input)
            if _is_single(self, input)
            else super().forward(input)
        )


def _is_single(norm: nn.BatchNorm2d, values: Tensor) -> bool:
    return norm.training and values.numel() == values.shape[1]


def _apply_running_statistics(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    return F.batch_norm(
        values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
