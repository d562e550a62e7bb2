"""Versions of the functions of `arrays` and `resizing` for torch tensors, on any device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.structures.arrays import (
    argsort_descending,
    as_float32,
    from_array_like,
    logit,
    sigmoid,
    softmax,
    where,
)
from resnet_tasks.structures.resizing import flip_and_resize


@from_array_like.register
def _(like: Tensor, values: NDArray[Any]) -> Tensor:
    del like
    return torch.from_numpy(values)


@as_float32.register
def _(values: Tensor) -> Tensor:
    return values.float()


@softmax.register
def _(logits: Tensor, axis: int) -> Tensor:
    return logits.softmax(dim=axis)


@sigmoid.register
def _(logits: Tensor) -> Tensor:
    return logits.sigmoid()


@logit.register
def _(probs: Tensor) -> Tensor:
    return probs.logit()


@where.register
def _(condition: Tensor, values: Tensor, other: Tensor) -> Tensor:
    return values.where(condition, other)


@argsort_descending.register
def _(scores: Tensor) -> Tensor:
    return scores.sort(descending=True, stable=True).indices


@flip_and_resize.register
def _(dense: Tensor, flips: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    values = dense.float()
    if flips:
        values = values.flip([axis + 1 for axis in flips])
    if tuple(values.shape[1:]) == size:
        return values
    return F.interpolate(values[None], size=list(size), mode="bilinear", align_corners=False)[0]
